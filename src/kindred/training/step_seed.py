"""Global random numbers as a function of (seed, step, rank), for encoders that draw some (dropout, stochastic depth)."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Seeds torch before every batch: no generator state to save, and a resumed run draws what an unbroken one would.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.current_epoch * 1_000_003 + batch_idx  # an epoch has fewer batches than that
        seed = (self.seed * 1_000_033 + step) * 65_537 + trainer.global_rank
        # Not torch.manual_seed, which makes ready to seed devices that are not there: that takes 2 ms.
        torch.default_generator.manual_seed(seed)
        if module.device.type != "cpu":
            torch.get_device_module(module.device).manual_seed(seed)
