"""kNN accuracy of the frozen features while they are being trained (Wu et al., CVPR 2018)."""

from typing import Any

import torch
from lightning import Callback

from kindred.callbacks.judges.feature_store import Features, feature_store
from kindred.callbacks.record import record
from kindred.errors import ConfigError
from kindred.evaluation.accuracy import top_k_accuracies
from kindred.evaluation.knn import knn_scores
from kindred.memory import MemoryBank
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer
from kindred.values import Count, Positive


class KNNCallback(Callback):
    """Logs `val/knn_top1` and `val/knn_top5` of the unaugmented query images against the bank.

    Of a method that keeps a bank of the train images' embeddings also `val/bank_knn_top1` and `_top5`: of the query images'
    projections against the bank as it is, stale and augmented (Wu et al. 2018, section 3.4).

    The untrained encoder is evaluated too, at step 0, and with it the inputs themselves, as `pixels/...` or by what name
    their views have for it: without these base lines an accuracy says little. Without labels of two classes nothing is
    logged.

    Args:
        k: neighbours that vote, k >= 1; cut to the size of the bank.
        temperature: tau > 0 of the vote's weights exp(similarity / tau).
        every_n_epochs: a multiple of `trainer.check_val_every_n_epoch`; the last epoch is always evaluated.
    """

    def __init__(
        self,
        k: Count = 200,
        temperature: Positive = 0.1,
        every_n_epochs: Count = 1,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.every_n_epochs = every_n_epochs

    def setup(self, trainer: Trainer, module: ContrastiveModule, stage: str) -> None:
        every = trainer.check_val_every_n_epoch
        if self.every_n_epochs < 1 or self.every_n_epochs % every:
            raise ConfigError(
                f"callbacks.knn.every_n_epochs={self.every_n_epochs} is no multiple of trainer.check_val_every_n_epoch="
                f"{every}, which says how often there are features at all: set the latter"
            )

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step and not last and (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        if not trainer.datamodule.is_judged:
            return
        store = feature_store(trainer)
        split = trainer.datamodule.monitor
        record(trainer, self._accuracies(f"{split}/knn", store.bank, store.query, trainer))
        if store.inputs:
            name = trainer.datamodule.views.base_line
            record(trainer, self._accuracies(f"{name}/knn", *store.inputs, trainer))
        bank = getattr(module, "bank", None)
        if isinstance(bank, MemoryBank) and trainer.global_step and trainer.datamodule.train_is_labelled:
            record(trainer, self._accuracies(f"{split}/bank_knn", _share(bank, trainer), store.projected, trainer))

    def _accuracies(self, name: str, bank: Features, query: Features, trainer: Trainer) -> dict[str, Any]:
        query = query.gathered()
        scores = knn_scores(
            bank.features,
            bank.labels,
            bank.positions,
            query.features,
            k=self.k,
            temperature=self.temperature,
            num_classes=trainer.datamodule.num_classes,
        )
        return top_k_accuracies(name, scores, query.labels)


def _share(bank: MemoryBank, trainer: Trainer) -> Features:
    """This rank's share of the rows, which all ranks hold."""
    rows = slice(trainer.global_rank, None, trainer.world_size)
    positions = bank.positions[rows]
    labels = torch.from_numpy(trainer.datamodule.train.known)[positions.cpu()].to(positions.device)
    return Features(bank.features[rows], labels, positions)
