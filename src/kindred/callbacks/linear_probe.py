"""An online linear probe: what a linear classifier can read from the features while they are being trained."""

import math
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback
from torch import Tensor, nn

from kindred.callbacks.feature_store import Features, feature_store
from kindred.callbacks.record import record
from kindred.data.loading import ViewBatch
from kindred.data.order import permutation
from kindred.distributed import world_size
from kindred.evaluation.accuracy import top_k_accuracies
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer


class LinearProbeCallback(Callback):
    """Trains a linear classifier on detached features and logs `val/linear_top1` and `val/linear_top5` of the query images.

    It learns from the train batches as they pass (all their views), or, where the train images have no labels, from the
    bank's features after each validation. It has its own optimiser, starts at zero and draws no random numbers, so the
    encoder's weights are the same with it and without it. On W ranks its gradient is that of the global batch.

    Args:
        lr: Adam's learning rate at the start, cosine to 0 at the end of the run (or of the passes over the bank).
        bank_epochs: passes over the bank after each validation, where the train images have no labels.
        bank_batch: images of the bank in one step.
    """

    def __init__(self, lr: float = 3e-3, bank_epochs: int = 10, bank_batch: int = 256) -> None:
        if not lr > 0:
            raise ValueError(f"callbacks.linear_probe.lr must be above 0, got {lr}")
        self.lr = lr
        self.bank_epochs = bank_epochs
        self.bank_batch = bank_batch

    def setup(self, trainer: Trainer, module: ContrastiveModule, stage: str) -> None:
        if not hasattr(self, "probe"):  # setup comes for the untrained encoder's evaluation and again for the training
            self.build(module.num_features, trainer.datamodule.num_classes)

    def build(self, features: int, classes: int) -> None:
        """The classifier, at zero, and its optimiser."""
        self.probe = nn.utils.skip_init(nn.Linear, features, classes)
        for parameter in self.probe.parameters():
            nn.init.zeros_(parameter)
        self.optimizer = torch.optim.Adam(self.probe.parameters(), lr=self.lr)

    def state_dict(self) -> dict[str, Any]:
        return {"probe": self.probe.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.probe.load_state_dict(state["probe"])
        self.optimizer.load_state_dict(state["optimizer"])

    def on_fit_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self.planned_steps = module.planned_steps
        self.probe.to(module.device)
        for state in self.optimizer.state.values():  # a resume loaded it on the CPU
            state.update({k: v.to(module.device) for k, v in state.items() if k != "step" and torch.is_tensor(v)})

    def on_train_batch_end(
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        if trainer.datamodule.train_is_labelled:
            features = outputs["features"]  # [V, B, F]
            decay = _cosine(trainer.global_step / self.planned_steps)
            self.step(features.flatten(0, 1), outputs["labels"].repeat(len(features)), decay)

    def on_validation_epoch_end(self, trainer: Trainer, module: ContrastiveModule) -> None:
        if trainer.global_step == 0:
            return  # untrained, like the probe itself
        store = feature_store(trainer)
        if not trainer.datamodule.train_is_labelled:
            self._learn_from(store.bank.gathered(), trainer.global_step)
        query = store.query.gathered()
        with torch.no_grad():
            scores = self.probe(query.features)
        record(trainer, top_k_accuracies(f"{trainer.datamodule.monitor}/linear", scores, query.labels))

    def _learn_from(self, bank: Features, step: int) -> None:
        """A few epochs over the gathered bank, the same on every rank; the order depends on step and pass alone."""
        for epoch in range(self.bank_epochs):
            order = torch.from_numpy(permutation(len(bank.labels), step, epoch)).to(bank.labels.device)
            for rows in order.split(self.bank_batch):
                self.step(bank.features[rows], bank.labels[rows], _cosine(epoch / self.bank_epochs))

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, decay: float) -> None:
        """One step of cross-entropy on features [n, F] with labels [n] of this rank; label -1 counts for nothing.

        The gradient of the logits is softmax minus one-hot: without a graph the step takes three quarters of the time.
        """
        labelled = (labels >= 0)[:, None]
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            residuals = self.probe(features).softmax(dim=1)
            residuals.scatter_add_(1, labels.clamp(min=0)[:, None], residuals.new_full(labelled.shape, -1.0))
            residuals *= labelled
            gradients, count = (residuals.T @ features, residuals.sum(dim=0)), labelled.sum()
        if world_size() > 1:
            for part in (*gradients, count):
                dist.all_reduce(part)
        for parameter, gradient in zip((self.probe.weight, self.probe.bias), gradients, strict=True):
            parameter.grad = gradient.div_(count.clamp(min=1))
        self.optimizer.param_groups[0]["lr"] = self.lr * decay
        self.optimizer.step()


def _cosine(done: float) -> float:
    """From 1 to 0 as `done` goes from 0 to 1: a function of the step, with nothing to save and nothing to restore."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
