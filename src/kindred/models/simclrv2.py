"""SimCLR v2: a deeper projector, and a memory of a momentum network's embeddings as further negatives.

Chen, Kornblith, Swersky, Norouzi, Hinton: Big Self-Supervised Models are Strong Semi-Supervised Learners, NeurIPS 2020.
"""

from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.loading import ViewBatch
from kindred.distributed import world_size
from kindred.losses import contrast_images
from kindred.memory import FeatureQueue
from kindred.models.contrastive import large_views
from kindred.models.parts.momentum import follow, momentum_copy
from kindred.models.simclr import SimCLR
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive, Share


class SimCLRv2(SimCLR):
    """NT-Xent with a memory: what a moving average of the network gave for past batches are negatives too (section 2).

    Without a memory it is SimCLR with three layers in the projector: `model=simclr model.head_layers=3`.

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule.
        hidden_dim, projection_dim, head_layers: see SimCLR.
        memory_size: embeddings of past batches' large views that are negatives.
        momentum: m of the network that gives them, as MoCo's.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.1,
        warmup_epochs: NotNegative = 10,
        hidden_dim: Count = 2048,
        projection_dim: Count = 128,
        head_layers: Annotated[int, Ge(2)] = 3,
        memory_size: Count = 65_536,
        momentum: Share = 0.999,
        loss: str = "contrastive",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(
            encoder,
            optimizer,
            temperature,
            warmup_epochs,
            hidden_dim,
            projection_dim,
            head_layers,
            loss,
            loss_options,
            chunks,
        )
        self.key_encoder = momentum_copy(encoder, self.projector)
        self.memory = FeatureQueue(memory_size, projection_dim)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = ["memory.features", "memory.labels"]
        self.momentum = momentum

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        embeddings = self.embed(self.projector, self.encode(batch.views))  # z [V, B, D]
        large = large_views(batch.views)
        negatives = self.memory.rows()
        self._step["candidates"] = world_size() * len(large) * len(batch.labels) - 1 + len(negatives)
        with torch.no_grad():
            self.entering = [self.through(self.key_encoder, batch.views[view][None])[0] for view in large]
        loss = contrast_images(embeddings, self.temperature, self.loss, large, negatives)
        return loss, {"memory_fill": len(negatives) / len(self.memory.features)}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            follow(self.key_encoder, self.momentum, self.encoder, self.projector)

    def on_after_backward(self) -> None:
        # Only now: an image's own embeddings would be its negatives.
        for embeddings in self.entering:
            self.memory.enqueue(embeddings)
