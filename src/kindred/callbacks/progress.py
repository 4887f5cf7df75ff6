"""The progress bar: loss and speed while an epoch runs, and the last accuracies of kNN and linear probe."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = [
    *("train/loss", "train/images_per_second"),
    *(f"{split}/{probe}_top1" for split in ("val", "test") for probe in ("knn", "linear")),
]


class Progress(RichProgressBar):
    """Lightning's rich progress bar, with the last values of SHOWN that were recorded."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        recorded = trainer.callback_metrics
        return {name: f"{recorded[name]:.4g}" for name in SHOWN if name in recorded}
