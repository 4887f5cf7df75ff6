"""Faults, and how to tell that a run got over them."""

import fnmatch
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from children import resume, start
from outcomes import assert_same, outcome
from rank_helpers import resume_ranks, start_ranks

SEED = 0  # of --faults-seed, or a random one
SMALL = ("data.batch_size=240", "model.hidden_dim=32")  # which 1, 2 and 3 ranks divide; 3 epochs of 4 steps
METHODS = {
    "simclr": (),
    "mocov2": ("model=mocov2", "model.projection_dim=16", "model.queue_size=600"),
    "nnclr": ("model=nnclr", "model.projection_dim=16", "model.queue_size=600"),
    "supcon": ("model=supcon", "model.projection_dim=16"),
}
CLOCK = {"seconds", "images_per_second", "train/images_per_second"}


def go(
    run: Path, settings: Sequence[str] = (), ranks: int = 1, prepare: Callable[[], None] = lambda: None
) -> list[int]:
    """Start a run, or go on with what is there of it, as a person would; the exit status of each rank."""
    if (run / "config.yaml").exists():
        return [resume(run, prepare=prepare)] if ranks == 1 else resume_ranks(run, count=ranks)
    if ranks == 1:
        return [start(run, [*SMALL, *settings], prepare)]
    return start_ranks(run, [*SMALL, *settings], lambda rank: prepare(), ranks)


def assert_ended_as(run: Path, other: Path) -> None:
    """To the bit: weights, optimiser, queue, metrics, best values, summary; and nothing unfinished lies about."""
    assert_same(outcome(run), outcome(other))
    summary, its = (json.loads((path / "summary.json").read_text()) for path in (run, other))
    assert {k: v for k, v in summary.items() if k not in CLOCK} == {k: v for k, v in its.items() if k not in CLOCK}
    assert {path.name for path in (run / "figures").iterdir()} == {path.name for path in (other / "figures").iterdir()}
    assert [str(path) for path in run.rglob("*") if path.name.endswith(".tmp") or path.name == ".lock"] == []


@contextmanager
def killed_after(seconds: float, chance: random.Random) -> Iterator[list[float]]:
    """SIGKILL for the processes that the block forks, `seconds` after its start: one of them, and soon the others.

    What comes of it is when it happened; empty if all had ended by then.
    """
    happened: list[float] = []
    pause = chance.choice([0.0, chance.uniform(0.0, 1.0)])
    victim = chance.random()

    def kill() -> None:
        if children := multiprocessing.active_children():
            chosen = children[int(victim * len(children))]
            chosen.kill()
            happened.append(seconds)
            time.sleep(pause)
            for child in children:
                child.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield happened
    finally:
        timer.cancel()
        timer.join()


def limit_while_writing(pattern: str, occurrence: int, size: int, deadly: bool) -> None:
    """From the `occurrence`-th time on that this process opens a file of that pattern to write, no file grows beyond `size`.

    The kernel then ends the process in the middle of a write (deadly), as a kill would, or refuses the rest, as a disk does
    that is full.
    """
    opened = 0
    die_of_limit(deadly)

    def watch(event: str, arguments: tuple) -> None:
        nonlocal opened
        if event != "open" or not isinstance(arguments[0], str | os.PathLike):
            return
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR) and fnmatch.fnmatch(str(path), pattern):
            opened += 1
            if opened == occurrence:
                limit_files(size)

    sys.addaudithook(watch)


def die_of_limit(deadly: bool) -> None:
    """Whether the kernel kills this process at the limit of a file's size. Early: Lightning puts signals back."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)


def limit_files(size: int) -> None:
    """No file of this process may grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def one_line(text: str) -> str:
    """The only line of what a run said on stderr."""
    lines = [line for line in text.splitlines() if not line.startswith("W&B: ")]
    assert len(lines) == 1, text
    return lines[0]
