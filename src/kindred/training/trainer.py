"""Lightning's Trainer, faster: three settings more that change how long a step takes and not what it computes.

And with batch norm over all ranks on a CPU too.
"""

import gc
import inspect
from functools import partial
from typing import Any

import lightning
import torch
from lightning import LightningModule

from kindred.training.batch_norm import SyncedLayers


class Trainer(lightning.Trainer):
    """lightning.Trainer; `configs/trainer/` holds its arguments.

    Args:
        compile: compile the encoder and every other part of the method (torch.compile). In place, so that checkpoints have
            the same names with it and without.
        channels_last: keep the encoder's weights, and with them what passes through it, in the order that convolutions on
            GPUs are made for.
        fused: update all weights in one kernel, where the optimiser has one (torch's SGD, Adam and AdamW do; LARS does not)
            and was not told otherwise (`model.optimizer.fused`).
    """

    def __init__(
        self, *args: Any, compile: bool = False, channels_last: bool = False, fused: bool = False, **kwargs: Any
    ) -> None:
        if kwargs.get("sync_batchnorm"):
            kwargs["plugins"] = [*(kwargs.get("plugins") or []), SyncedLayers()]
        super().__init__(*args, **kwargs)
        self.compile, self.channels_last, self.fused = compile, channels_last, fused

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """lightning.Trainer.fit, with the objects that exist by now out of the garbage collector's sight.

        They are the libraries' and stay; Python would look through all of them now and then, 0.3 s each time.
        """
        gc.freeze()
        try:
            super().fit(*args, **kwargs)
        finally:
            gc.unfreeze()

    def speed_up(self, module: LightningModule) -> None:
        """Prepare `module` for this trainer, before fit."""
        if self.channels_last:
            module.encoder.to(memory_format=torch.channels_last)
        # With float16 a fused optimiser unscales the gradients itself, after Lightning would have had to clip them.
        takes = inspect.signature(module.optimizer.func).parameters
        if self.fused and "fused" in takes and self.precision != "16-mixed":
            module.optimizer = partial(module.optimizer.func, **{"fused": True, **module.optimizer.keywords})
        if self.compile:
            for part in module.children():
                if any(parameter.ndim > 1 for parameter in part.parameters()):  # a network; no queue, no temperature
                    part.compile()


# What kindred.config.check compares the keys with: *args and **kwargs would let every key pass.
_own = [p for p in inspect.signature(Trainer.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
_theirs = list(inspect.signature(lightning.Trainer).parameters.values())
Trainer.__signature__ = inspect.Signature([*_theirs, *_own])
