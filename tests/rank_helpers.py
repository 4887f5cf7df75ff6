"""Trainings on several ranks, and parts that a run's configuration may name, in subprocesses too."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from children import DIGITS
from lightning import Callback
from torch import nn

from kindred.commands import train
from kindred.config import compose

TESTS = Path(__file__).parent
ROOT = TESTS.parent


class PlainConvNet(nn.Sequential):
    """An encoder without batch norm, whose result for an image does not depend on the others in the batch."""

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (8, 16)) -> None:
        pairs = pairwise([in_channels, *widths])
        blocks = [layer for i, o in pairs for layer in (nn.Conv2d(i, o, 3, 2, 1), nn.GELU())]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = widths[-1]


class Watch(Callback):
    """Notes a checksum of every view of every image; sends itself a signal, once, where SIGNAL_AT=rank:step:number says."""

    def __init__(self, folder: str) -> None:
        self.folder, self.seen = folder, {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        for row, index in enumerate(batch.index.tolist()):
            views = [hashlib.sha1(view[row].numpy().tobytes()).hexdigest() for view in batch.views]
            self.seen[f"{trainer.current_epoch} {index}"] = views

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        rank, step, number = os.environ.get("SIGNAL_AT", "-1:-1:0").split(":")
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if (trainer.global_rank, trainer.global_step) == (int(rank), int(step)) and not again:
            os.kill(os.getpid(), int(number))

    def on_train_end(self, trainer, module) -> None:
        path = Path(self.folder) / f"seen-{trainer.world_size}-{trainer.global_rank}.json"
        path.write_text(json.dumps(self.seen))


def watch(folder: Path) -> list[str]:
    """Overrides that add a Watch to a run."""
    return ["+callbacks.watch._target_=rank_helpers.Watch", f"+callbacks.watch.folder={folder}"]


def seen(folder: Path, ranks: int) -> dict[str, list[str]]:
    """What all ranks saw together; every image of an epoch on one rank only."""
    parts = [json.loads((folder / f"seen-{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    together = {key: views for part in parts for key, views in part.items()}
    assert len(together) == sum(len(part) for part in parts)
    return together


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_ranks(count: int, function: Callable[[int], int | None], seconds: float = 120, job: str = "test") -> list[int]:
    """Exit statuses of `count` forked processes that call `function(rank)` in the environment that torchrun makes."""
    port = str(free_port())

    def body(rank: int) -> None:
        torch.set_num_threads(1)  # a child forked after a parallel torch operation would hang
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": job,
        }
        sys.exit(function(rank) or 0)

    ranks = [multiprocessing.get_context("fork").Process(target=body, args=(rank,)) for rank in range(count)]
    for process in ranks:
        process.start()
    end = time.monotonic() + seconds
    for process in ranks:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(ranks) if process.is_alive()]
    for process in ranks:
        process.kill()
        process.join()
    if late:
        raise TimeoutError(f"ranks {late} did not end within {seconds} s")
    return [process.exitcode for process in ranks]


def start_ranks(
    directory: Path,
    overrides: Sequence[str] = (),
    prepare: Callable[[int], None] = lambda rank: None,
    count: int = 2,
) -> list[int]:
    """Train on digits with `count` ranks; each calls `prepare(rank)` first."""

    config = compose([*DIGITS, "trainer=ddp_cpu", f"trainer.devices={count}", f"run_dir={directory}", *overrides])

    def body(rank: int) -> int:
        prepare(rank)
        train.configure = lambda arguments: config  # composed once, not once per rank
        return train.main([])

    return as_ranks(count, body)


def resume_ranks(directory: Path, overrides: Sequence[str] = (), count: int = 2) -> list[int]:
    """Go on with a run on `count` ranks."""
    settings = [f"resume={directory}", "trainer=ddp_cpu", f"trainer.devices={count}", *overrides]
    return as_ranks(count, lambda rank: train.main(settings))


def command(*arguments: str, module: str = "kindred", **environment: str) -> subprocess.Popen:
    """`python -m <module> <arguments>`, as a person types it; `environment` on top of this process's own."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, seconds: float = 120) -> str:
    """What the command printed, once it and everything that it started has ended."""
    try:
        return process.communicate(timeout=seconds)[0]  # ranks hold the pipe as well
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
