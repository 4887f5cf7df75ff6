"""Stops a run whose loss is not finite before it overwrites its last good checkpoint, and warns of a collapse."""

from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn

from kindred.callbacks.judges.feature_store import feature_store
from kindred.data.loading import ViewBatch
from kindred.errors import KindredError
from kindred.models.contrastive import ContrastiveModule
from kindred.sphere import unit
from kindred.training.trainer import Trainer


class NonFiniteLossError(KindredError, ArithmeticError):
    """The loss became NaN or infinite; the checkpoints are from before that."""


class Guard(Callback):
    """Keeps a flag on the device and reads it when metrics are logged and before a checkpoint is written.

    Reading it at every step would make the host wait for the device.
    """

    def on_fit_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self.bad = torch.zeros((), dtype=torch.bool, device=module.device)

    def on_train_batch_end(
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        self.bad |= ~torch.isfinite(outputs["logs"]["loss"])
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: ContrastiveModule, checkpoint: dict[str, Any]) -> None:
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Raise NonFiniteLossError, on every rank, if any step since the start had a loss that is not finite."""
        if trainer.strategy.reduce_boolean_decision(bool(self.bad), all=False):
            raise NonFiniteLossError(
                f"train/loss is not finite at step {trainer.global_step}; a lower model.optimizer.lr, more "
                "model.warmup_epochs, trainer.gradient_clip_val or trainer.precision=32-true may help. "
                "The last good checkpoint was kept."
            )

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        points = unit(feature_store(trainer).query.features)
        # A constant representation has no spread on the unit sphere; an isotropic one has 1 / sqrt(F) in each direction.
        spread = float(points.std(dim=0, correction=0).mean()) * points.shape[1] ** 0.5
        if spread < 0.01 and len(points) > 1:
            rank_zero_warn(
                f"The representation has collapsed: the standard deviation of its unit features is {spread:.1e} of an "
                "isotropic one's. A lower learning rate, more warm-up or another temperature may help."
            )
