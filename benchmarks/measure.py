"""How benchmarks measure: contestants in turns, memory in a process of its own."""

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

START_METHOD = "spawn"  # of processes for memory: nothing is inherited
M_MMAP_THRESHOLD = -3  # malloc.h


def alternate(
    turns: dict[str, tuple[int, Callable[[], Any]]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds per call of every contestant in every turn, after one call each that is not counted.

    They take turns, so that a slow moment of the machine hits all of them.

    Args:
        turns: name -> (calls in one turn, the call). A turn should last a tenth of a second or more.
        repeats: turns of each.
        clock: wall time, or `time.process_time` where one thread works and other programs may run.
    """
    seconds = {name: [] for name in turns}
    for _, call in turns.values():
        call()
    for _ in range(repeats):
        for name, (calls, call) in turns.items():
            start = clock()
            for _ in range(calls):
                call()
            seconds[name].append((clock() - start) / calls)
    return seconds


def clock() -> Callable[[], float]:
    """Processor time where torch has one thread, so that other programs may run beside it; else wall time."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def clock_note() -> str:
    """Such as `2 threads, wall time`."""
    number = torch.get_num_threads()
    return "1 thread, processor time" if number == 1 else f"{number} threads, wall time"


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch on that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns in a new Python process, whose memory holds nothing else."""
    context, number = multiprocessing.get_context(START_METHOD), torch.get_num_threads()
    with ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(number,)) as pool:
        return pool.submit(function, *arguments).result()


class Contestant:
    """Work in a process of its own, with an environment of its own, done when it is called; `with` ends the process.

    Args:
        environment: variables that are set before the process imports anything.
        prepare: called there with `arguments`; returns the work.
    """

    def __init__(self, environment: dict[str, str], prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context(START_METHOD)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, torch.get_num_threads(), prepare, arguments), daemon=True
        )
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        self.pipe.recv()  # it is prepared

    def __call__(self) -> Any:
        self.pipe.send(None)
        return self.pipe.recv()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, threads: int, prepare: Callable[..., Callable[[], Any]], arguments: tuple) -> None:
    torch.set_num_threads(threads)
    work = prepare(*arguments)
    pipe.send(None)
    while True:
        pipe.recv()
        pipe.send(work())


def peak_growth(work: Callable[[], Any]) -> float:
    """MiB by which the resident memory of this process grows at most while `work` runs; on Linux, `in_fresh_process`.

    What `work` returns is held until its peak has been read.
    """
    # Freed blocks go back to the system at once: what is held is measured, and not what malloc keeps for later.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    result = work()
    growth = (_resident("VmHWM") - before) / 1024
    del result
    return growth


def _resident(key: str) -> int:
    """KiB"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
