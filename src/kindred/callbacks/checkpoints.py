"""last.ckpt and best.ckpt: when they are written, and how, so that a kill at any moment leaves a good one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kindred.data.datamodule import ViewBatch


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes next to the target, syncs, and renames: a reader sees the old checkpoint or the new one, whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


class Checkpoints(Checkpoint):
    """`last.ckpt` every n steps, at the end of each epoch and on SIGTERM; `best.ckpt` at the best evaluation so far.

    The last batch of an epoch is no moment to save: its evaluation is still to come, and a resume would skip it.

    Args:
        every_n_steps: optimiser steps between two saves within an epoch.
        monitor: the accuracy, without its split, whose maximum makes `best.ckpt`; the untrained encoder does not count.
    """

    def __init__(self, every_n_steps: int = 500, monitor: str = "knn_top1") -> None:
        if every_n_steps < 1:
            raise ValueError(f"callbacks.checkpoints.every_n_steps must be 1 or more, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.best = float("-inf")
        self.saved_step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "saved_step": self.saved_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.saved_step = state["best"], state["saved_step"]

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        due = trainer.global_step % self.every_n_steps == 0 or trainer.received_sigterm
        if due and self._resumable(trainer, batch_idx) and not trainer.is_last_batch:
            self._save(trainer, "last")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = trainer.callback_metrics.get(f"{trainer.datamodule.monitor}/{self.monitor}")
        if value is not None and float(value) > self.best:
            self.best = float(value)
            self._save(trainer, "best")
        self._save(trainer, "last")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        # Lightning stops after the step during which the signal came; within an evaluation there is nothing to add.
        stopped = isinstance(exception, SIGTERMException) and trainer.training
        if stopped and self._resumable(trainer, trainer.fit_loop.batch_idx):
            self._save(trainer, "last")

    def _resumable(self, trainer: Trainer, batch_idx: int) -> bool:
        """A step that is not saved yet, and no gradient half accumulated: that is not in a checkpoint."""
        return trainer.global_step != self.saved_step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0

    def _save(self, trainer: Trainer, name: str) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")
