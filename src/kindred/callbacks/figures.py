"""views.png after the first epoch, curves.png and neighbours.png at the end of the run."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from kindred.callbacks.feature_store import feature_store
from kindred.data.datamodule import MultiViewDataModule
from kindred.evaluation.knn import knn_search_sharded
from kindred.tracking.metrics_csv import read_columns

# matplotlib takes half a second to import: not before the first training step.


class Figures(Callback):
    """Draws into `<run directory>/figures`.

    Args:
        images: rows of views.png and neighbours.png.
        neighbours: bank images shown for each query.
    """

    def __init__(self, images: int = 8, neighbours: int = 8) -> None:
        self.images = images
        self.neighbours = neighbours

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        if trainer.is_global_zero and not (folder / "views.png").exists():
            self._views(folder / "views.png", trainer.datamodule)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._neighbours(folder / "neighbours.png", trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (metrics := read_columns(directory / "metrics.csv")):
            from kindred.tracking.figures import draw_curves

            draw_curves(directory / "figures" / "curves.png", metrics)

    def _views(self, path: Path, datamodule: MultiViewDataModule) -> None:
        from kindred.tracking.figures import draw_views

        items = np.linspace(0, len(datamodule.train) - 1, self.images).astype(int)
        batch = datamodule.train.train_items(items, epoch=0)
        views = datamodule.views(batch.images, batch.index, 0)
        draw_views(path, datamodule.train.__getitems__(items).images.numpy(), [view.numpy() for view in views])

    def _neighbours(self, path: Path, trainer: Trainer) -> None:
        """Evenly spread queries, searched by all ranks, drawn by one."""
        datamodule, store = trainer.datamodule, feature_store(trainer)
        query = store.query.gathered()
        rows = torch.linspace(0, len(query.labels) - 1, self.images).long().to(query.labels.device)
        similarities, nearest = (
            found.cpu().numpy()
            for found in knn_search_sharded(
                store.bank.features, store.bank.positions, query.features[rows], self.neighbours
            )
        )
        if not trainer.is_global_zero:
            return
        from kindred.tracking.figures import draw_neighbours

        names = np.array([*datamodule.class_names, "unlabelled"])  # label -1 is the last
        queries = datamodule.query.__getitems__(rows.tolist())
        bank = datamodule.bank.__getitems__(nearest.ravel().tolist())
        found = (
            queries.images.numpy(),
            names[queries.labels.numpy()],
            bank.images.unflatten(0, nearest.shape).numpy(),
            names[bank.labels.numpy()].reshape(nearest.shape),
            similarities,
        )
        draw_neighbours(path, *found)
        for logger in trainer.loggers:
            if log_neighbours := getattr(logger, "log_neighbours", None):
                log_neighbours(*found)
