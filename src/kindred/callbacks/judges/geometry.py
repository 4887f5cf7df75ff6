"""How the representation, and the projections on which the temperature acts, lie on the unit sphere during training."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from lightning import Callback

from kindred.callbacks.judges.feature_store import feature_store
from kindred.callbacks.record import due, record
from kindred.data.loading import ViewBatch
from kindred.evaluation.geometry import alignment, effective_rank, tolerance, uniformity
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer


class GeometryCallback(Callback):
    """Logs alignment of train batches, and uniformity, tolerance and effective rank of the held-out images.

    `train/alignment` and `val/uniformity`, `val/tolerance`, `val/effective_rank` are of the encoder's features;
    `train/projector_alignment`, `val/projector_uniformity`, ... of the projector's output. Nothing is encoded for it: train
    batches bring their views' features, and the validation has encoded the held-out images.

    Args:
        images: at most that many held-out images, evenly spread, make the pairs; a few thousand tell the mean of all pairs
            to three digits, and time and memory do not grow with the data set.
    """

    def __init__(self, images: Annotated[int, Ge(2)] = 4096) -> None:
        self.images = images

    def on_train_batch_end(
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        if due(trainer, batch_idx) and len(outputs["features"]) > 1:
            values = {
                "train/alignment": alignment(outputs["features"]),
                "train/projector_alignment": alignment(outputs["projections"]),
            }
            record(trainer, values)

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        store, split = feature_store(trainer), trainer.datamodule.monitor
        for prefix, share in (("", store.query), ("projector_", store.projected)):
            embeddings, labels, _ = share.gathered()
            rows = torch.linspace(0, len(labels) - 1, min(len(labels), self.images), device=labels.device).long()
            values = {"uniformity": uniformity(embeddings[rows]), "effective_rank": effective_rank(embeddings[rows])}
            if trainer.datamodule.is_judged:
                values["tolerance"] = tolerance(embeddings[rows], labels[rows])
            there = {f"{split}/{prefix}{name}": value for name, value in values.items() if not value.isnan()}
            record(trainer, there)
