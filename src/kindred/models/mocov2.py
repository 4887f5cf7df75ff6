"""MoCo v2: two views of one image are kin, keys of past batches in a queue are the negatives.

He, Fan, Wu, Xie, Girshick: Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020 (v1).
Chen, Fan, Girshick, He: Improved Baselines with Momentum Contrastive Learning, 2020 (v2).
"""

from functools import partial
from typing import Any

from lightly.models.modules.heads import MoCoProjectionHead
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn, no_grad
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.data.loading import ViewBatch
from kindred.errors import ConfigError
from kindred.losses import BY_QUEUE, choose
from kindred.memory import FeatureQueue
from kindred.models.contrastive import ContrastiveModule
from kindred.models.parts.key_splits import encode_in_splits, make_local
from kindred.models.parts.momentum import follow, momentum_copy
from kindred.temperature import Temperature
from kindred.values import Count, NotNegative, Positive, Share, Whole


class MoCoV2(ContrastiveModule):
    """InfoNCE of queries against keys of a slowly moving copy of the encoder (v1, algorithm 1).

    Args:
        encoder, optimizer, temperature, warmup_epochs, loss, loss_options, chunks: see ContrastiveModule. tau is
            0.07 in v1 and 0.2 in v2.
        hidden_dim, projection_dim: the projector's widths; linear, ReLU, linear, no batch norm. 0 hidden: v1's linear head.
        queue_size: keys of past batches.
        momentum: m of the key encoder's moving average; the paper's 0.999 suits long epochs, 0.99 CIFAR's.
        momentum_end: where a cosine takes m by the end of the run; None keeps it.
        symmetric: each view is a query once and a key once, instead of view 1 against view 2 only.
        key_batch_splits: groups in which keys are batch-normalised, permuted over the global batch; 1: all together. The
            paper's shuffling BN on as many GPUs, whatever the number there is (v1, section 3.3).
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: Positive | Temperature = 0.2,
        warmup_epochs: NotNegative = 0,
        hidden_dim: Whole = 2048,
        projection_dim: Count = 128,
        queue_size: Count = 65_536,
        momentum: Share = 0.999,
        momentum_end: Share | None = None,
        symmetric: bool = False,
        key_batch_splits: Count = 1,
        loss: str = "contrastive",
        loss_options: dict | None = None,
        chunks: Count = 1,
    ) -> None:
        super().__init__(encoder, optimizer, temperature, warmup_epochs, choose(BY_QUEUE, loss, loss_options), chunks)
        for key, value in (("momentum", momentum), ("momentum_end", momentum_end)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"model.{key} must be from 0 to 1, got {value}")
        if key_batch_splits < 1:
            raise ConfigError(f"model.key_batch_splits must be 1 or more, got {key_batch_splits}")
        self.projector = (
            MoCoProjectionHead(self.num_features, hidden_dim, projection_dim)
            if hidden_dim
            else nn.Linear(self.num_features, projection_dim)
        )
        self.key_encoder = momentum_copy(encoder, self.projector)
        self.queue = FeatureQueue(queue_size, projection_dim)
        # The same on every rank without being sent.
        self._ddp_params_and_buffers_to_ignore = ["queue.features", "queue.labels"]
        self.momentum = momentum
        self.momentum_end = momentum_end
        self.symmetric = symmetric
        self.key_batch_splits = key_batch_splits

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        views = batch.views
        asked = views[:2] if self.symmetric else views[:1]
        answering = (views[1], views[0]) if self.symmetric else views[1:2]
        queries = self.embed(self.projector, self.encode(asked))  # q [1 or 2, B, D]
        keys = [self.encode_keys(view) for view in answering]  # k, no gradient
        negatives = self.queue.rows()
        contrast = partial(self.loss, negatives=negatives, temperature=self.temperature, unit_negatives=True)
        losses = [contrast(q, k) for q, k in zip(queries, keys, strict=True)]
        self.entering = keys
        self._step["candidates"] = 1 + len(negatives)
        return sum(losses[1:], losses[0]) / len(losses), {"queue_fill": len(self.queue) / len(self.queue.features)}

    @no_grad()
    def encode_keys(self, view: Tensor) -> Tensor:
        """A view [B, ...] -> keys [B, D], normalised in as many groups as was asked for."""
        if self.key_batch_splits == 1:
            return self.through(self.key_encoder, view[None])[0]
        return encode_in_splits(self.key_encoder, view, self.key_batch_splits, self.queue.written)

    def on_after_backward(self) -> None:
        # Only now: in the symmetric form a key enqueued before the loss would be its own image's negative.
        for keys in self.entering:
            self.queue.enqueue(keys)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            end = self.momentum if self.momentum_end is None else self.momentum_end
            momentum = cosine_schedule(self.global_step, self.planned_steps, self.momentum, end)
            follow(self.key_encoder, momentum, self.encoder, self.projector)

    def on_fit_start(self) -> None:
        if self.key_batch_splits > 1:
            make_local(self.key_encoder)

    def check(self, datamodule: DataModule, ranks: int) -> None:
        super().check(datamodule, ranks)
        batch_size = datamodule.batch_size
        keys, size = batch_size * (2 if self.symmetric else 1), len(self.queue.features)
        if size < keys:
            raise ConfigError(f"model.queue_size is {size}, but a step brings {keys} keys: make it that or more")
        splits = self.key_batch_splits
        if splits > 1 and (batch_size % splits or splits % ranks or splits == batch_size):
            raise ConfigError(
                f"model.key_batch_splits is {splits}: it must divide data.batch_size={batch_size} into groups of 2 or more "
                f"keys, and be a multiple of the {ranks} device(s), which each normalise whole groups"
            )
