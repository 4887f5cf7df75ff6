"""Trainings in forked children: a child may be killed, and starts without importing everything again."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.figure  # noqa: F401 - imported here once, not in every child
import torch
from lightning import Callback

from kindred import config
from kindred.commands.train import main
from kindred.runs import train

# The first backward of a process starts autograd's threads. After torch.export there would be one to start, and no child
# that is forked later could run backward.
torch.ones(1, requires_grad=True).sum().backward()

DIGITS = [
    "data=digits",
    "data.batch_size=256",
    "encoder.widths=[8,16]",
    "model.hidden_dim=32",
    "trainer.max_epochs=3",
    "trainer.check_val_every_n_epoch=1",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoints.every_n_steps=2",
    "trainer.enable_progress_bar=false",
]


class At(Callback):
    """Calls `action` at the end of the train batch that makes `step` steps, after all other callbacks but the checkpoint."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.action()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(function: Callable[[], int | None], seconds: float = 120) -> int:
    """Exit status of a forked child that runs `function`: minus the signal that killed it, or what it returned."""

    def body() -> None:
        torch.set_num_threads(1)  # a child forked after a parallel torch operation would hang
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        sys.exit(function() or 0)

    child = multiprocessing.get_context("fork").Process(target=body)
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        raise TimeoutError(f"the child did not end within {seconds} s")
    return child.exitcode


def start(directory: Path, overrides: Sequence[str] = (), prepare: Callable[[], None] = lambda: None) -> int:
    """Train on digits in a child that calls `prepare` first; the command line's exit status."""

    def body() -> int:
        prepare()
        return main([*DIGITS, f"run_dir={directory}", *overrides])

    return in_child(body)


def resume(directory: Path, overrides: Sequence[str] = (), prepare: Callable[[], None] = lambda: None) -> int:
    """Go on with a run in a child."""

    def body() -> int:
        prepare()
        return main([f"resume={directory}", *overrides])

    return in_child(body)


def add_callback(callback: Callback) -> None:
    """Every run of this process gets `callback`, before the others."""
    build = config.build

    def with_callback(configuration, key, **more):
        built = build(configuration, key, **more)
        return {"test": callback, **built} if key == "callbacks" else built

    train.build = with_callback
