"""How many negatives matter, during training."""

from typing import Any

from lightning import Callback

from kindred import distributed
from kindred.callbacks.record import due, record
from kindred.data.loading import ViewBatch
from kindred.evaluation.hardness import penalty_entropy
from kindred.losses import class_groups, image_groups
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer


class HardnessCallback(Callback):
    """Logs `train/penalty_entropy`, in nats, and `train/effective_negatives`, its exponential, of a batch's projections.

    The entropy is that of an anchor's relative penalties, the mean over all anchors: the temperature sets how evenly the
    loss pushes an anchor's negatives away. Those are the views of other images in the global batch, or of other classes
    where classes are kin; for a method with a queue they stand for the queue's.
    """

    def on_train_batch_end(
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        if not due(trainer, batch_idx):
            return
        projections = outputs["projections"]
        groups = class_groups(projections, outputs["groups"]) if "groups" in outputs else image_groups(projections)
        anchors = projections.flatten(0, 1)
        own = groups[distributed.rank() * len(anchors) :][: len(anchors)]
        entropies = penalty_entropy(anchors, distributed.gather(anchors), own, groups, outputs["temperature"])
        values = {"train/penalty_entropy": entropies, "train/effective_negatives": entropies.exp()}
        record(trainer, {name: trainer.strategy.reduce(value.mean()) for name, value in values.items()})
