"""Loss, learning rate, similarities and speed of training, every `trainer.log_every_n_steps` optimiser steps."""

import time
from typing import Any

from lightning import Callback

from kindred.callbacks.record import due, record
from kindred.data.loading import ViewBatch
from kindred.evaluation.geometry import pair_similarity
from kindred.evaluation.information import info_nce_bound
from kindred.models.contrastive import ContrastiveModule
from kindred.training.trainer import Trainer


class TrainMetrics(Callback):
    """Logs `train/...` and keeps the run's clock, which goes on where it stopped after a resume."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds_before = 0.0  # of this run's earlier processes
        self.images, self.train_seconds = 0, 0.0  # evaluations and checkpoints left out
        self.lap_images, self.lap_start = 0, self.started

    @property
    def seconds(self) -> float:
        """Wall time of the run, without the time between a stop and its resume."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Images (each of them V views) trained on per second, over the whole run."""
        return self.images / self.train_seconds if self.train_seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "images": self.images, "train_seconds": self.train_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds_before, self.images, self.train_seconds = state["seconds"], state["images"], state["train_seconds"]

    def _start_lap(self) -> None:
        self.lap_images, self.lap_start = 0, time.perf_counter()

    def _end_lap(self) -> float:
        """Count the lap in, and return its images per second."""
        seconds = time.perf_counter() - self.lap_start
        self.images, self.train_seconds = self.images + self.lap_images, self.train_seconds + seconds
        speed = self.lap_images / seconds
        self._start_lap()
        return speed

    def on_train_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self._start_lap()  # a resume in mid-epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: Trainer, module: ContrastiveModule) -> None:
        self._start_lap()

    def on_train_batch_end(
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: ViewBatch, batch_idx: int
    ) -> None:
        self.lap_images += len(batch.labels) * trainer.world_size
        if due(trainer, batch_idx):
            logs = {f"train/{name}": trainer.strategy.reduce(value) for name, value in outputs["logs"].items()}
            positive, logs["train/negative_similarity"] = pair_similarity(outputs["projections"])
            if len(outputs["projections"]) > 1:
                logs["train/positive_similarity"] = positive
            if "candidates" in outputs:
                logs["train/information_bound"] = info_nce_bound(logs["train/loss"], outputs["candidates"])
            logs["train/temperature"] = outputs["temperature"]
            logs = {name: float(value) for name, value in logs.items()}  # waits for the device, so the lap is honest
            logs["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            logs["train/images_per_second"] = self._end_lap()
            record(trainer, logs)
        if trainer.is_last_batch and self.lap_images:
            self._end_lap()  # before the evaluation
