"""What every method shares: views in, loss and detached features out, one optimiser, one schedule."""

import math
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.datamodule import ViewBatch
from kindred.optim import parameter_groups, warmup_cosine


class ContrastiveModule(lightning.LightningModule):
    """Base of the methods. A method overrides `contrast`, and that only.

    Args:
        encoder: images [B, C, H, W] -> features [B, F], with the attribute `num_features` (F).
        optimizer: parameter groups -> optimiser; its `weight_decay` spares norms and biases.
        temperature: tau > 0, what similarities are divided by.
        warmup_epochs: epochs of linear warm-up before the cosine, cut to the run's length.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: Callable[..., Optimizer],
        temperature: float,
        warmup_epochs: float = 0,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "num_features"):
            raise ValueError(
                f"encoder: {type(encoder).__name__} lacks the attribute num_features, the length of its features"
            )
        if not temperature > 0:
            raise ValueError(f"model.temperature must be greater than 0, got {temperature}")
        if warmup_epochs < 0:
            raise ValueError(f"model.warmup_epochs must be 0 or more, got {warmup_epochs}")
        self.encoder = encoder
        self.projector: nn.Module = nn.Identity()  # a method puts its own here: what the temperature acts on
        self.optimizer = optimizer
        self.temperature = temperature
        self.warmup_epochs = warmup_epochs
        self._step: dict[str, Tensor] = {}  # what the callbacks may observe of the running step

    def contrast(self, views: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The method itself.

        Args:
            views: V views [B, C, H, W] of the same B images, this rank's share of the global batch.
            labels: [B] int64, -1 where there is none.

        Returns:
            The loss, a mean over this rank's anchors, and detached scalars to log as `train/<name>`.
        """
        raise NotImplementedError

    def check(self, batch_size: int, ranks: int) -> None:
        """Refuse settings that do not fit the global batch or the number of ranks, before anything is launched."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the representation that is judged and exported [B, F]."""
        return self.encoder(images)

    def encode(self, views: tuple[Tensor, ...]) -> Tensor:
        """V views [B, C, H, W] -> features [V, B, F] in one pass, which batch norm sees as one batch."""
        features = self.encoder(torch.cat(views)).unflatten(0, (len(views), -1))
        self._step["features"] = features.detach()
        return features

    def embed(self, head: nn.Module, features: Tensor) -> Tensor:
        """Features [V, B, F] -> embeddings [V, B, D] through `head`, in one pass."""
        embeddings = head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        self._step["projections"] = embeddings.detach()
        return embeddings

    def training_step(self, batch: ViewBatch, batch_idx: int) -> dict[str, Any]:
        """The loss, and what the callbacks observe: features [V, B, F], projections [V, B, D], labels [B], logs."""
        self._step = {}
        loss, logs = self.contrast(batch.views, batch.labels)
        return {"loss": loss, "labels": batch.labels, "logs": {"loss": loss.detach(), **logs}, **self._step}

    def validation_step(self, batch: ViewBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Features [B, F] and projections [B, D] of unaugmented images; the FeatureStore callback keeps them."""
        features = self(batch.views[0])
        return {"features": features, "projections": self.projector(features)}

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the whole run.

        Not `trainer.estimated_stepping_batches`: asked for in `configure_optimizers`, it loads the train loader before a
        resume has restored the loader's state, which is then ignored, and the epoch starts over.
        """
        trainer = self.trainer
        batches, limit = len(trainer.datamodule.train_dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs

    def configure_optimizers(self) -> dict[str, Any]:
        """One optimiser over all trainable parameters; linear warm-up, then cosine, moved at every step."""
        optimizer = self.optimizer(parameter_groups(self, self.optimizer.keywords.get("weight_decay", 0.0)))
        total = self.planned_steps
        warmup = round(self.warmup_epochs * total / self.trainer.max_epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": warmup_cosine(optimizer, warmup, total), "interval": "step"},
        }
