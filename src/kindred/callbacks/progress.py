"""The progress bar: loss and speed while an epoch runs, and the last accuracies of kNN and linear probe."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class Progress(RichProgressBar):
    """Lightning's rich progress bar, which shows what the callbacks recorded with `bar=True`."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        metrics = super().get_metrics(trainer, module)
        metrics.pop("v_num", None)  # a run has a directory, not a version number
        return {name: f"{value:.3f}" for name, value in metrics.items()}
