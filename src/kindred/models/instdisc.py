"""InstDisc: an image and what a memory bank keeps of it are kin, other rows of the bank are the negatives.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018.
"""

import math
from functools import partial

import torch
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.distributed import gather, world_size
from kindred.losses import BY_BANK, choose, noise_contrast
from kindred.memory import MemoryBank
from kindred.models.contrastive import ContrastiveModule
from kindred.sphere import unit
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive, Share, Whole


class InstDisc(ContrastiveModule):
    """Each image is a class, whose weights are its row of the bank (section 3.1), by NCE with a proximal term (eq. 9).

    One view is enough. Each of several is an anchor by itself, and the row moves towards their mean.

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss_options, chunks: see ContrastiveModule. The paper's tau is 0.07.
        loss: "nce", or "contrastive", the softmax over all train images (eq. 2), for small sets.
        hidden_dim, projection_dim: the projector's widths; the paper's is linear (0 hidden), else linear, ReLU, linear.
        noise_samples: m rows of the bank that NCE tells an anchor from, drawn once a step for all anchors.
        proximal: lambda of the squared distance between an anchor and its row (section 3.2); 30 in the paper.
        momentum: what is left of a row when its image is seen; 0.5 in the authors' code.
        partition_momentum: what is left of NCE's Z in a step. 1 keeps the first step's estimate, as the paper does; below 1
            it follows what the bank has become (0.99: K. He in HobbitLong/CMC, issue 23).
        seed: of the bank's first rows and of the noise.
    """

    min_views = 1
    log_partition: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.07,
        warmup_epochs: NotNegative = 0,
        hidden_dim: Whole = 0,
        projection_dim: Count = 128,
        noise_samples: Count = 4096,
        proximal: NotNegative = 30.0,
        momentum: Share = 0.5,
        partition_momentum: Share = 1.0,
        seed: Whole = 0,
        loss: str = "nce",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, choose(BY_BANK, loss, loss_options), chunks)
        features = self.num_features
        head = MoCoProjectionHead(features, hidden_dim, projection_dim) if hidden_dim else None
        self.projector = head or nn.Linear(features, projection_dim)
        self.bank = MemoryBank(projection_dim, momentum)
        self.register_buffer("log_partition", torch.zeros(()))  # log(Z / n)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = ["bank.features", "bank.positions", "log_partition"]
        self.noise_samples = noise_samples
        self.proximal = proximal
        self.partition_momentum = partition_momentum
        self.seed = seed

    def setup(self, stage: str) -> None:
        if len(self.bank) == 0:
            self.bank.fill(torch.from_numpy(self.trainer.datamodule.train.positions), self.seed)

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        embeddings = self.embed(self.projector, self.encode(batch.views))  # v [V, B, D]
        anchors, places = unit(embeddings.flatten(0, 1)), self.bank.places(batch.index)
        own = places.repeat(len(embeddings))
        rows = self.bank.features[own]
        if self.loss.func is noise_contrast:
            noise = self.bank.features[self.bank.sample(self.noise_samples, self.seed, self.global_step)]
            self.estimate_partition(anchors, noise)
            partition = {"log_partition": self.log_partition, "unit_negatives": True}
            loss = self.loss(anchors, rows, noise, self.temperature, **partition)
        else:
            everyone = torch.arange(len(self.bank), device=own.device)
            loss = self.loss(anchors, self.bank.features, own, everyone, None, self.temperature)
        self.entering = (places, anchors.detach().view_as(embeddings).mean(dim=0))
        self._step["candidates"] = len(self.bank)
        return loss + self.proximal * (anchors - rows).square().sum(dim=1).mean(), {}

    @torch.no_grad()
    def estimate_partition(self, anchors: Tensor, noise: Tensor) -> None:
        """Z = n E exp(v_j . f / tau) over the noise and the anchors of all ranks, of the first step (section 3.2) and on."""
        kept = self.partition_momentum if self.global_step else 0.0
        if kept == 1:
            return
        with torch.autocast(anchors.device.type, enabled=False):
            logits = (anchors @ noise.T) / self.temperature
        own = logits.logsumexp(dim=(0, 1)) - math.log(logits.numel())
        now = gather(own[None]).logsumexp(dim=0) - math.log(world_size())
        if kept:
            now = torch.logaddexp(self.log_partition + math.log(kept), now + math.log(1 - kept))
        self.log_partition.copy_(now)

    def on_after_backward(self) -> None:
        # Only now: the loss has compared its anchors with the rows as they were.
        self.bank.move(*self.entering)
