"""last.ckpt and best.ckpt: when they are written, and how, so that a kill at any moment leaves a good one."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from kindred.data.loading import ViewBatch
from kindred.files import seal, unwritable, whole
from kindred.training.stop_signals import StopSignals
from kindred.training.trainer import Trainer
from kindred.values import Count


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes next to the target, syncs, and renames: a reader sees the old checkpoint or the new one, whole.

    The `last.ckpt` before stays as `previous.ckpt`, where the file system has hard links.

    Args:
        settings: what the run is trained with, kept in each checkpoint.
    """

    def __init__(self, settings: str) -> None:
        super().__init__()
        self.settings = settings

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(exist_ok=True)  # not its parents: a run directory that is gone is not made anew
        except OSError as error:
            raise unwritable(path, error) from error
        with whole(path) as file:
            torch.save(checkpoint | {"settings": self.settings}, file)
            seal(file)
            if path.name == "last.ckpt" and path.exists():
                keep(path, path.with_name("previous.ckpt"))


def keep(path: Path, name: Path) -> None:
    """Give the file at `path` another `name` too; `path` is there all the time, as it would not be after a rename."""
    link = name.with_name(f".{name.name}.tmp")
    link.unlink(missing_ok=True)  # of a process that was killed here
    with contextlib.suppress(OSError):
        os.link(path, link)
        os.replace(link, name)


class Checkpoints(Checkpoint):
    """`last.ckpt` every n steps, at the end of each epoch, on SIGTERM and Ctrl-C; `best.ckpt` at the best evaluation so far.

    The last batch of an epoch is no moment to save: its evaluation is still to come, and a resume would skip it. A
    signal stops the run after the next step that can be saved, or within an evaluation, to which there is nothing to add.

    Args:
        every_n_steps: optimiser steps between two saves within an epoch.
        monitor: the accuracy, without its split, whose maximum makes `best.ckpt`; the untrained encoder does not count.
    """

    def __init__(self, every_n_steps: Count = 500, monitor: str = "knn_top1") -> None:
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.best = float("-inf")
        self.saved_step = 0
        self.signals = StopSignals()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "saved_step": self.saved_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.saved_step = state["best"], state["saved_step"]

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.signals.install(trainer)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.signals.give_back(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.signals.give_back(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        # Half accumulated gradients are not in a checkpoint.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stopped = self.signals.agreed()
        if (stopped or trainer.global_step % self.every_n_steps == 0) and trainer.global_step != self.saved_step:
            self._save(trainer, "last")
        if stopped:
            self.signals.stop(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.shared_batches = self.signals.shared([int(count) for count in trainer.num_val_batches])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: ViewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx < self.shared_batches[dataloader_idx] and self.signals.agreed():
            self.signals.stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        value = trainer.callback_metrics.get(f"{trainer.datamodule.monitor}/{self.monitor}")
        if value is not None and float(value) > self.best:
            self.best = float(value)
            self._save(trainer, "best")
        self._save(trainer, "last")
        if trainer.current_epoch + 1 < trainer.max_epochs and self.signals.agreed():
            self.signals.stop(trainer)

    def _save(self, trainer: Trainer, name: str) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")
