"""The progress bar: loss and speed while an epoch runs, and the last accuracies of kNN and linear probe."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

# metric -> what stands for it in a narrow terminal
SHOWN = {
    "train/loss": "loss",
    "train/images_per_second": "images/s",
    "val/knn_top1": "kNN",
    "val/linear_top1": "linear",
    "test/knn_top1": "kNN (test)",
    "test/linear_top1": "linear (test)",
}


class Progress(RichProgressBar):
    """Lightning's rich progress bar, with the last values of SHOWN that were recorded."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        recorded = trainer.callback_metrics
        return {label: f"{recorded[name]:.4g}" for name, label in SHOWN.items() if name in recorded}
