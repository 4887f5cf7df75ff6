"""Lightning's Trainer with settings that change how long a step takes, and batch norm over all ranks on a CPU too."""

import gc
import inspect
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, cast

import lightning
import torch
from annotated_types import Gt, Le
from lightning import Callback
from lightning.pytorch.callbacks import ProgressBar
from torch import nn
from torch.optim import Optimizer

from kindred.data.datamodule import DataModule
from kindred.training.batch_norm import SyncedLayers
from kindred.training.heap import keep_freed_memory
from kindred.values import Count, NotNegative, Whole

INTERVAL = 10  # optimiser steps between two rows of metrics.csv, where nothing was asked for


class Method(Protocol):
    """What a Trainer asks of its module."""

    steps_per_epoch: int
    encoder: nn.Module
    optimizer: partial[Optimizer]

    def children(self) -> Iterator[nn.Module]: ...


class Trainer(lightning.Trainer):
    """lightning.Trainer; `configs/trainer/` holds its arguments.

    Args:
        compile: compile the encoder and every other part of the method (torch.compile). In place, so that checkpoints have
            the same names with it and without. What was compiled is kept in the user's cache folder for the next run
            (TORCHINDUCTOR_CACHE_DIR: in another).
        channels_last: keep the weights of convolutions, as views of images are, in the order in memory that most of them
            are made for; without it both are in torch's own.
        fused: update all weights in one kernel, where the optimiser has one (torch's SGD, Adam and AdamW do; LARS does not)
            and was not told otherwise (`model.optimizer.fused`).
        enable_progress_bar: whether kindred.callbacks.progress.Progress draws a bar where there is a terminal; without that
            callback there is none.
        log_every_n_steps: optimiser steps between two rows of metrics; None: 10, or an epoch's where there are fewer.
    """

    # What callbacks and methods read: Lightning sets it elsewhere or leaves it open, Kindred's configurations do not.
    callbacks: list[Callback]
    datamodule: DataModule
    max_epochs: int
    check_val_every_n_epoch: int  # ty: ignore[incompatible-mutable-override]  None is not among the choices
    __signature__: ClassVar[inspect.Signature]

    def __init__(
        self,
        *args: Any,
        compile: bool = False,
        channels_last: bool = False,
        fused: bool = False,
        enable_progress_bar: bool = True,
        log_every_n_steps: Count | None = None,
        **kwargs: Any,
    ) -> None:
        # To Lightning a bar that is no class of its own is none, and it would add one.
        theirs = enable_progress_bar and any(isinstance(c, ProgressBar) for c in kwargs.get("callbacks") or ())
        self._interval = log_every_n_steps
        if kwargs.get("sync_batchnorm"):
            kwargs["plugins"] = [*(kwargs.get("plugins") or []), SyncedLayers()]
        super().__init__(*args, enable_progress_bar=theirs, log_every_n_steps=log_every_n_steps, **kwargs)
        self.compile, self.channels_last, self.fused = compile, channels_last, fused
        self.enable_progress_bar = enable_progress_bar

    @property
    def log_every_n_steps(self) -> int:
        """Optimiser steps between two rows of metrics."""
        method = cast(Method, self.lightning_module)
        return self._interval if self._interval is not None else min(INTERVAL, method.steps_per_epoch)

    @log_every_n_steps.setter
    def log_every_n_steps(self, _: int) -> None:
        """Lightning's default; what was asked for is known."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """lightning.Trainer.fit, with the objects that exist by now out of the garbage collector's sight.

        They are the libraries' and stay; Python would look through all of them now and then, 0.3 s each time.
        """
        if self.strategy.root_device.type == "cpu":
            keep_freed_memory()
        gc.freeze()
        try:
            super().fit(*args, **kwargs)
        finally:
            gc.unfreeze()

    def speed_up(self, module: Method) -> None:
        """Prepare `module` for this trainer, before fit."""
        for part in module.children():
            if self.channels_last:  # not Module.to, which stumbles over the five dimensions of a video's
                for weight in (parameter for parameter in part.parameters() if parameter.ndim == 4):
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            else:
                part.register_forward_pre_hook(_contiguous)
        # With float16 a fused optimiser unscales the gradients itself, after Lightning would have had to clip them.
        takes = inspect.signature(module.optimizer.func).parameters
        if self.fused and "fused" in takes and self.precision != "16-mixed":
            module.optimizer = partial(module.optimizer.func, **{"fused": True, **module.optimizer.keywords})
        if self.precision == "64-true":
            for part in module.children():
                part.double()  # Lightning would after it has read a checkpoint, whose weights would lose half their digits
                # Views are float32 whatever the weights are.
                part.register_forward_pre_hook(lambda _, inputs: self.precision_plugin.convert_input(inputs))
        if self.compile:
            # Torch's default lies where the system empties it, and the next run would compile everything again.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
            for part in module.children():
                if any(parameter.ndim > 1 for parameter in part.parameters()):  # a network; no queue, no temperature
                    part.compile()


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kindred"


def _contiguous(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, torch.Tensor) else value for value in inputs)


# What kindred.config.check compares the keys with: *args and **kwargs would let every key pass.
_own = {name: p for name, p in inspect.signature(Trainer.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY}
_share = Count | Annotated[float, Gt(0), Le(1)] | None
_bounds = {
    **dict.fromkeys(("max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches", "num_nodes"), Count),
    **dict.fromkeys((f"limit_{part}_batches" for part in ("train", "val", "test", "predict")), _share),
    "gradient_clip_val": NotNegative | None,
    "num_sanity_val_steps": Whole,
    "precision": int | str | None,  # kindred.training.launch.check_precision knows which, and why
}
_theirs = {
    name: p.replace(annotation=_bounds.get(name, p.annotation))
    for name, p in inspect.signature(lightning.Trainer).parameters.items()
}
Trainer.__signature__ = inspect.Signature([*(_theirs | _own).values()])
