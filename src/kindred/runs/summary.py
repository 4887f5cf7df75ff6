"""What a run prints when it ends."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kindred.files import write_atomically
from kindred.tracking.base_lines import base_lines, written
from kindred.tracking.metrics_csv import read_metrics, summarise

if TYPE_CHECKING:
    from kindred.training.trainer import Trainer

LABEL_FREE = ("train/loss", "train/alignment", "val/uniformity", "val/effective_rank")


def print_summary(
    summary: dict[str, float], directory: Path, console: Console | None = None, judge: str | None = "test"
) -> None:
    """A table of what was reached, the base lines first, and what to type next.

    Args:
        judge: the split that `make evaluate` will judge on; None: none of them is labelled.
    """
    table = Table("", "top-1", "top-5", title=str(directory), title_justify="left")

    def accuracy(label: str, name: str, suffix: str = "") -> None:
        values = [summary.get(f"{name}_top{k}{suffix}") for k in (1, 5)]
        if values[0] is not None:
            table.add_row(label, *("" if value is None else f"{value:.3f}" for value in values))

    for probe, name in (("kNN", "knn"), ("linear probe", "linear")):
        for line in base_lines(summary):
            accuracy(f"{probe} on {written(line)}", f"{line}/{name}")
        accuracy(f"{probe}, untrained encoder", f"untrained/{name}")
    for split in ("val", "test"):
        on = "" if split == "val" else " on the test split"
        accuracy(f"kNN, last epoch{on}", f"{split}/knn")
        accuracy(f"kNN, best epoch{on}", f"{split}/knn", "_best")
        accuracy(f"linear probe, last epoch{on}", f"{split}/linear")
        accuracy(f"classifier, last epoch{on}", f"{split}/classifier")
        accuracy(f"classifier, best epoch{on}", f"{split}/classifier", "_best")
    if not table.row_count:  # no labels
        table = Table("", "last epoch", title=str(directory), title_justify="left")
        for name in LABEL_FREE:
            if name in summary:
                table.add_row(name, f"{summary[name]:.3f}")
    console = console or Console()
    console.print(table)
    if "seconds" in summary:
        console.print(
            f"{summary['epochs']:g} epochs in {summary['seconds']:.0f} s, "
            f"{summary['images_per_second']:.0f} images per second in training"
        )
    if summary.get("skipped_files"):
        console.print(f"{summary['skipped_files']:g} files could not be decoded and were skipped: skipped.csv")
    # Unwrapped, so that the lines can be copied.
    console.print(f"pictures: {directory / 'figures'}", soft_wrap=True)
    place = shlex.quote(str(directory))
    console.print(f"longer:   make train RESUME={place} EPOCHS=<more>", soft_wrap=True)
    judging = f"as file:  make export RUN={place}" if judge is None else f"{f'on {judge}:':9} make evaluate RUN={place}"
    console.print(judging, soft_wrap=True)


def write_summary(directory: Path, trainer: "Trainer") -> dict[str, float]:
    """summary.json: what metrics.csv says, and the run's epochs, seconds, speed and skipped files."""
    from kindred.callbacks.train_metrics import TrainMetrics

    summary = summarise(read_metrics(directory / "metrics.csv"))
    summary["epochs"] = trainer.current_epoch
    for callback in trainer.callbacks:
        if isinstance(callback, TrainMetrics):
            summary["seconds"], summary["images_per_second"] = callback.seconds, callback.images_per_second
    summary["skipped_files"] = getattr(trainer.datamodule.source, "skipped", 0)
    if trainer.is_global_zero:
        write_atomically(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary
