"""views.png after the first epoch, curves.png and neighbours.png at the end of the run; of texts neighbours.html."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning import Callback

from kindred.callbacks.judges.feature_store import feature_store
from kindred.data.datamodule import DataModule
from kindred.data.loading import Subset
from kindred.evaluation.knn import knn_search_sharded
from kindred.models.contrastive import ContrastiveModule
from kindred.tracking.metrics_csv import read_columns
from kindred.tracking.sparing import sparing
from kindred.training.trainer import Trainer
from kindred.values import Count

# matplotlib takes half a second to import: not before the first training step.


class Figures(Callback):
    """Draws into `<run directory>/figures`; a picture that cannot be drawn is left out, and the run goes on.

    Args:
        images: rows of views.png and neighbours.png.
        neighbours: bank images shown for each query.
    """

    def __init__(self, images: Count = 8, neighbours: Count = 8) -> None:
        self.images = images
        self.neighbours = neighbours
        self.tried = False  # to draw the views, by this process
        self.say: Callable[[], None] | None = None  # the neighbours that can be read, when the run has ended

    def on_train_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        folder = Path(trainer.default_root_dir) / "figures"
        if trainer.is_global_zero and not self.tried and not (folder / "views.png").exists():
            self.tried = True
            with sparing(folder / "views.png"):
                self._views(folder / "views.png", trainer.datamodule)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._neighbours(folder, trainer)

    def on_train_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            if self.say is not None:
                self.say()
            with sparing(directory / "figures" / "curves.png"):
                if metrics := read_columns(directory / "metrics.csv"):
                    from kindred.tracking.figures import draw_curves

                    draw_curves(directory / "figures" / "curves.png", metrics)

    def _views(self, path: Path, datamodule: DataModule) -> None:
        from kindred.tracking.figures import draw_views

        items = np.linspace(0, len(datamodule.train) - 1, self.images).astype(int)
        batch, views = datamodule.train.train_items(items, epoch=0), datamodule.views
        images = pictures(datamodule, datamodule.train, items)
        if images is not None:
            augmented = views.augment(batch.raw, batch.index, 0)
            draw_views(path, images, [view.numpy() for view in map(views.pictures, augmented) if view is not None])

    def _neighbours(self, folder: Path, trainer: Trainer) -> None:
        """Evenly spread queries, searched by all ranks, drawn by one."""
        store = feature_store(trainer)
        query = store.query.gathered()
        rows = torch.linspace(0, len(query.labels) - 1, self.images).long().to(query.labels.device)
        similarities, nearest = (
            found.cpu().numpy()
            for found in knn_search_sharded(
                store.bank.features, store.bank.positions, query.features[rows], self.neighbours
            )
        )
        if trainer.is_global_zero:
            with sparing(folder / "neighbours.png"):
                self._draw(folder, trainer, rows.cpu().numpy(), nearest, similarities)

    def _draw(
        self, folder: Path, trainer: Trainer, queries: np.ndarray, nearest: np.ndarray, similarities: np.ndarray
    ) -> None:
        """neighbours.png, and the same for loggers that take it, or neighbours.html: `nearest` [Q, k] are bank positions."""
        datamodule, bank = trainer.datamodule, nearest.ravel()
        names = np.array(
            [*datamodule.class_names, "" if datamodule.query.labels.max() < 0 else "unlabelled"]
        )  # label -1
        query_names = names[datamodule.query.labels[queries]]
        bank_names = names[datamodule.bank.labels[bank]].reshape(nearest.shape)
        images, nearby = pictures(datamodule, datamodule.query, queries), pictures(datamodule, datamodule.bank, bank)
        if images is not None and nearby is not None:
            from kindred.tracking.figures import draw_neighbours

            found = (images, query_names, nearby.reshape(*nearest.shape, *images.shape[1:]), bank_names, similarities)
            draw_neighbours(folder / "neighbours.png", *found)
            for logger in trainer.loggers:
                if log_neighbours := getattr(logger, "log_neighbours", None):
                    log_neighbours(*found)
        read, near = texts(datamodule, datamodule.query, queries), texts(datamodule, datamodule.bank, bank)
        if read is not None and near is not None:
            from kindred.tracking.texts import Neighbours, print_neighbours, write_neighbours

            by_query = np.array(near, dtype=object).reshape(nearest.shape)
            readable = Neighbours(read, query_names.tolist(), by_query.tolist(), bank_names.tolist(), similarities)
            write_neighbours(folder / "neighbours.html", readable)
            self.say = partial(print_neighbours, readable)


def pictures(datamodule: DataModule, dataset: Subset, items: np.ndarray) -> np.ndarray | None:
    """Examples as evaluation sees them, uint8 [B, C, H, W]; None if they are no pictures."""
    drawn = datamodule.views.pictures(datamodule.views.plain(dataset.__getitems__(items).raw))
    return None if drawn is None else drawn.numpy()


def texts(datamodule: DataModule, dataset: Subset, items: np.ndarray) -> list[str] | None:
    """Examples as evaluation reads them; None if they are no texts."""
    return datamodule.views.texts(datamodule.views.plain(dataset.__getitems__(items).raw))
