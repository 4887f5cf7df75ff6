"""How far a run is: a bar in a terminal, and one line an evaluation where there is none (nohup, Slurm, a sweep's log)."""

import sys
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule

from kindred.callbacks.record import epochs_done
from kindred.data.loading import ViewBatch
from kindred.training.trainer import Trainer

# What was recorded last, and how it is shown; where there is no room for all, from the first.
SHOWN = {
    "train/loss": "loss {:.4g}",
    "val/classifier_top1": "classifier {:.3f}",
    "test/classifier_top1": "classifier (test) {:.3f}",
    "val/knn_top1": "kNN {:.3f}",
    "val/linear_top1": "linear {:.3f}",
    "test/knn_top1": "kNN (test) {:.3f}",
    "test/linear_top1": "linear (test) {:.3f}",
    "train/images_per_second": "{:,.0f} images/s",
}
BAR = 10  # columns of the bar itself
EVERY = 0.2  # seconds between two drawings


class Progress(Callback):
    """A bar of the epoch in a terminal; lines elsewhere, and where `trainer.enable_progress_bar` is false. On rank zero.

    Both tell the time left of the whole run, evaluations included, from the speed of this process so far.
    """

    def __init__(self) -> None:
        self.begun: tuple[float, float] | None = None  # epochs done and clock when this process began to train
        self.bar: Any = None
        self.drawn = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # isatty as well: FORCE_COLOR has rich take a file for a terminal.
        if trainer.is_global_zero and getattr(trainer, "enable_progress_bar", True) and sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = TextColumn("{task.description}"), BarColumn(BAR), TextColumn("{task.fields[values]}")
            if (console := Console()).is_interactive:
                # No thread of its own that draws: loader workers would fork while it holds its lock.
                self.bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
                self.bar.add_task("", total=None, values="")
                self.bar.start()
                console.show_cursor()  # rich hides it, and a second Ctrl-C would leave it so

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, module, "")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.begun = epochs_done(trainer), time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._draw(trainer, epoch, batch_idx + 1, int(trainer.num_training_batches))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: ViewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        counts = [int(count) for count in trainer.num_val_batches]
        self._draw(trainer, "evaluation", sum(counts[:dataloader_idx]) + batch_idx + 1, sum(counts))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero and self.bar is None:
            words = [f"epoch {epochs_done(trainer):g}/{trainer.max_epochs}", *values(trainer), self.left(trainer)]
            print("  ".join(filter(None, words)), flush=True)

    def left(self, trainer: Trainer) -> str:
        """The time left of the whole run; empty before this process has trained."""
        if self.begun is None or (done := epochs_done(trainer)) <= self.begun[0]:
            return ""
        seconds = (time.monotonic() - self.begun[1]) / (done - self.begun[0]) * (trainer.max_epochs - done)
        return f"{timedelta(seconds=round(seconds))} left"

    def _draw(self, trainer: Trainer, what: str, completed: int, total: int) -> None:
        if self.bar is None or (completed < total and time.monotonic() < self.drawn + EVERY):
            return
        self.drawn = time.monotonic()
        description = "  ".join(filter(None, [what, self.left(trainer)]))
        words = values(trainer)
        while len("  ".join(words)) > self.bar.console.width - len(description) - BAR - 2:
            words.pop()
        (task,) = self.bar.task_ids
        shown = {"description": description, "values": "  ".join(words)}
        self.bar.update(task, completed=completed, total=total, refresh=True, **shown)


def values(trainer: Trainer) -> list[str]:
    """The last values of SHOWN that were recorded."""
    recorded = trainer.callback_metrics
    return [text.format(float(recorded[name])) for name, text in SHOWN.items() if name in recorded]
