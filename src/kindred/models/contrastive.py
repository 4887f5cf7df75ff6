"""What every method shares: views in, loss and detached features out, one optimiser, one schedule."""

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.data.loading import ViewBatch
from kindred.distributed import world_size
from kindred.errors import ConfigError
from kindred.losses.choice import INFO_NCE, WITHOUT_TEMPERATURE
from kindred.models.parts.chunks import in_parts
from kindred.optimisers.parameter_groups import parameter_groups
from kindred.optimisers.schedules import warmup_cosine
from kindred.optimisers.together import Together
from kindred.temperature import Temperature
from kindred.training.trainer import Trainer
from kindred.values import Count


class ContrastiveModule(lightning.LightningModule):
    """Base of the methods. A method overrides `contrast`, and that only.

    Args:
        encoder: inputs [B, ...] -> features [B, F], with the attribute `num_features` (F).
        optimizer: parameter groups -> optimiser; its `weight_decay` spares norms and biases.
        temperature: tau > 0, what similarities are divided by, or what gives it (`kindred.temperature`).
        warmup_epochs: epochs of linear warm-up before the cosine, cut to the run's length.
        loss: what contrasts kin with the rest (`kindred.losses.choose`).
        chunks: parts in which a batch that does not fit into memory is encoded (`kindred.models.parts.chunks`); the loss is
            still over all of it. Each part is encoded twice, and batch-normalised by itself.
    """

    min_views = 2  # of each example
    trainer: Trainer  # ty: ignore[incompatible-property-override]  Lightning's setter takes None too

    def __init__(
        self,
        encoder: nn.Module,
        optimizer: partial[Optimizer],
        temperature: float | Temperature,
        warmup_epochs: float,
        loss: partial[Tensor],
        chunks: Count = 1,
    ) -> None:
        super().__init__()
        if chunks < 1:
            raise ConfigError(f"model.chunks must be 1 or more, got {chunks}")
        num_features = getattr(encoder, "num_features", None)
        if not isinstance(num_features, int):
            raise ConfigError(
                f"encoder: {type(encoder).__name__} lacks the attribute num_features, the length of its features"
            )
        tau = temperature if isinstance(temperature, Temperature) else Temperature(temperature)
        if loss.func in WITHOUT_TEMPERATURE and isinstance(temperature, Temperature):
            raise ConfigError(
                f"model.temperature: model.loss={loss.func.__name__} "  # ty: ignore[missing-attribute]  a function
                "has none that could change; give a number"
            )
        self.encoder = encoder
        self.num_features = num_features
        self.projector: nn.Module = nn.Identity()  # a method puts its own here: what the temperature acts on
        self.optimizer = optimizer
        self.tau = tau
        self.warmup_epochs = warmup_epochs
        self.loss = loss
        self.chunks = chunks
        self._step: dict[str, Any] = {}  # what the callbacks may observe of the running step

    def contrast(self, batch: ViewBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The method itself.

        Args:
            batch: V views [B, ...] of the same B examples, their labels and index: this rank's share of the global batch.

        Returns:
            The loss, a mean over this rank's anchors, and detached scalars to log as `train/<name>`.
        """
        raise NotImplementedError

    def check(self, datamodule: DataModule, ranks: int) -> None:
        """Refuse settings that do not fit the data or the number of ranks, before anything is launched."""
        if (views := len(datamodule.views)) < self.min_views:
            raise ConfigError(
                f"views.views has {views} view(s) of each example: {type(self).__name__} contrasts at least {self.min_views}"
            )
        if datamodule.batch_size < 2:  # batch norm of a single one says nothing either
            raise ConfigError(
                f"data.batch_size is {datamodule.batch_size}: an example is contrasted with others of its batch, so give 2 "
                "or more"
            )
        share = datamodule.batch_size // ranks
        fitting = [n for n in range(1, share // 2 + 1) if share % n == 0] or [1]
        if self.chunks > 1 and self.chunks not in fitting:
            nearest = [*[n for n in fitting if n < self.chunks][-1:], *[n for n in fitting if n > self.chunks][:1]]
            raise ConfigError(
                f"model.chunks is {self.chunks}: it must divide the {share} examples that data.batch_size="
                f"{datamodule.batch_size} gives each of {ranks} device(s) into parts of 2 or more, as "
                f"{' or '.join(map(str, nearest))} would"
            )
        try:
            self.build_optimizer()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model.optimizer: {error}") from error

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, ...] -> the representation that is judged and exported [B, F]."""
        return self.encoder(inputs)

    @property
    def temperature(self) -> float | Tensor:
        """tau at this step: a number, or a 0-d tensor that may be learnt."""
        return self.tau(self.global_step / self.steps_per_epoch if self.global_step else 0.0)

    def encode(self, views: tuple[Tensor, ...]) -> Tensor:
        """V views [B, ...] -> features [V, B, F], all views of one size in one pass: to batch norm they are one batch."""
        features = in_parts(self._encode, self.encoder, views, self.chunks)
        self._step["features"] = features.detach()
        return features

    def _encode(self, *views: Tensor) -> Tensor:
        by_size: dict[torch.Size, list[int]] = {}
        for number, view in enumerate(views):
            by_size.setdefault(view.shape, []).append(number)
        encoded: dict[int, Tensor] = {}
        for numbers in by_size.values():
            features = self.encoder(torch.cat([views[number] for number in numbers])).unflatten(0, (len(numbers), -1))
            encoded |= zip(numbers, features, strict=True)
        if len(by_size) > 1:
            features = torch.stack([encoded[number] for number in range(len(views))])
        return features

    def through(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Inputs [V, B, ...] -> [V, B, D] through `network`, in one pass for each of the chunks."""

        def together(some: Tensor) -> Tensor:
            return network(some.flatten(0, 1)).unflatten(0, some.shape[:2])

        return in_parts(together, network, (inputs,), self.chunks, dim=1)

    def embed(self, head: nn.Module, features: Tensor) -> Tensor:
        """Features [V, B, F] -> embeddings [V, B, D] through `head`: what is contrasted."""
        embeddings = self.through(head, features)
        self._step["projections"] = embeddings.detach()
        return embeddings

    def training_step(self, batch: ViewBatch, batch_idx: int) -> dict[str, Any]:
        """The loss, and what the callbacks observe.

        Features [V, B, F], projections [V, B, D], labels [B], logs, and the temperature. Of InfoNCE also candidates, the
        terms of its denominator: every other large view in the global batch, where the method does not say otherwise. Where
        images are kin, groups [B] says which.
        """
        self._step = {}
        loss, logs = self.contrast(batch)
        with torch.no_grad():
            self._step["temperature"] = self.temperature  # after the step it is another one
        large, images = len(large_views(batch.views)), len(batch.labels)
        candidates = self._step.pop("candidates", world_size() * large * images - 1)
        if self.loss.func in INFO_NCE:
            self._step["candidates"] = candidates
        return {"loss": loss, "labels": batch.labels, "logs": {"loss": loss.detach(), **logs}, **self._step}

    def validation_step(self, batch: ViewBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Features [B, F] and projections [B, D] of unaugmented examples; the FeatureStore callback keeps them."""
        features = self(batch.views[0])
        return {"features": features, "projections": self.projector(features)}

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch, counted once.

        Not `trainer.estimated_stepping_batches`: asked for in `configure_optimizers`, it loads the train loader before a
        resume has restored the loader's state, which is then ignored, and the epoch starts over.
        """
        trainer = self.trainer
        batches, limit = len(trainer.datamodule.train_dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / trainer.accumulate_grad_batches)

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.trainer.max_epochs

    def build_optimizer(self) -> Optimizer:
        """One optimiser over all trainable parameters; a temperature that is learnt brings its own into it."""
        own, decay = self.tau.optimizer(), self.optimizer.keywords.get("weight_decay", 0.0)
        optimizer = self.optimizer(parameter_groups(self, decay, apart=None if own is None else self.tau))
        if own is not None:
            optimizer = Together(optimizer, own)
        optimizer.register_step_post_hook(lambda *_: self.tau.bound())
        return optimizer

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser with a linear warm-up, then a cosine, moved at every step."""
        optimizer = self.build_optimizer()
        total = self.planned_steps
        warmup = round(self.warmup_epochs * total / self.trainer.max_epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": warmup_cosine(optimizer, warmup, total), "interval": "step"},
        }


def large_views(views: Sequence[Tensor]) -> list[int]:
    """Which of the views [B, ...] all others are contrasted with: the largest, where there are two or more; else all.

    Small crops are cheap anchors, and poor candidates (multi-crop, Caron et al. 2020, arXiv:2006.09882, section 3.2).
    """
    sizes = [view[:1].numel() for view in views]
    largest = [number for number, size in enumerate(sizes) if size == max(sizes)]
    return largest if len(largest) > 1 else list(range(len(views)))
