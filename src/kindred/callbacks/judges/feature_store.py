"""The features of one evaluation, encoded once and read by every probe."""

from typing import NamedTuple

import torch
from lightning import Callback
from torch import Tensor

from kindred.data.loading import ViewBatch
from kindred.distributed import gather_uneven, rank, world_size
from kindred.errors import ConfigError
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer

BANK, QUERY = 0, 1  # the order of DataModule.val_dataloader
PROJECTED = 2  # the query images again, as the projector's output
INPUT_BANK = 100_000  # examples; beyond this the bank's inputs would not fit next to a training run


class Features(NamedTuple):
    """This rank's share of a data set, in order: its j-th row is image `positions[j]` of the whole."""

    features: Tensor  # [n, F] float32
    labels: Tensor  # [n] int64, -1 where there is none
    positions: Tensor  # [n] int64

    def gathered(self) -> "Features":
        """The whole set on every rank, in the order of `positions`."""
        whole = [gather_uneven(part) for part in self]
        order = whole[2].argsort()
        return Features(*(part[order] for part in whole))


class FeatureStore(Callback):
    """Keeps what validation encoded until the next validation starts, and sees to it that the last epoch is evaluated.

    With the untrained encoder it keeps the inputs too, until that evaluation ends: what is read from them is the base line.
    """

    def __init__(self) -> None:
        self._batches: tuple[list, list, list] = ([], [], [])
        self._inputs: tuple[list, list] = ([], [])

    def on_train_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self.on_train_epoch_start(trainer, module)  # which a resume in mid-epoch leaves out

    def on_train_epoch_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_validation_epoch_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self._batches, self._inputs = ([], [], []), ([], [])

    def on_validation_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self._inputs = ([], [])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: ContrastiveModule,
        outputs: dict[str, Tensor],
        batch: ViewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._batches[dataloader_idx].append((outputs["features"].detach().float(), batch.labels))
        if dataloader_idx == QUERY:
            self._batches[PROJECTED].append((outputs["projections"].detach().float(), batch.labels))
        if trainer.global_step == 0 and len(trainer.datamodule.bank) <= INPUT_BANK:
            features = trainer.datamodule.views.as_features(batch.views[0])
            if features is not None:
                self._inputs[dataloader_idx].append(features)

    def _features(self, which: int) -> Features:
        if not self._batches[which]:
            raise RuntimeError("no features yet: read the FeatureStore in on_validation_epoch_end or later")
        features, labels = (torch.cat(parts) for parts in zip(*self._batches[which], strict=True))
        self._batches[which][:] = [(features, labels)]  # put together once, however many read it
        positions = torch.arange(len(labels), device=labels.device) * world_size() + rank()
        return Features(features, labels, positions)

    @property
    def bank(self) -> Features:
        """Train images, unaugmented: this rank's shard."""
        return self._features(BANK)

    @property
    def query(self) -> Features:
        """Held-out images: this rank's shard."""
        return self._features(QUERY)

    @property
    def projected(self) -> Features:
        """The held-out images' projections, on which the temperature acts: this rank's shard."""
        return self._features(PROJECTED)

    @property
    def inputs(self) -> tuple[Features, Features] | None:
        """Bank and query as they are before the encoder: this rank's shards. None: not now, or there is no such thing."""
        if not self._inputs[BANK]:
            return None
        for parts in self._inputs:
            parts[:] = [torch.cat(parts)]
        bank, query = (parts[0] for parts in self._inputs)
        return self.bank._replace(features=bank), self.query._replace(features=query)


def feature_store(trainer: Trainer) -> FeatureStore:
    """The run's FeatureStore.

    Raises:
        ValueError: there is none among the callbacks.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, FeatureStore):
            return callback
    raise ConfigError("callbacks.feature_store: missing; kNN, linear probe and pictures read what it keeps")
