"""Run a function as W ranks of a gloo process group on this machine, by fork: nothing is pickled or imported anew."""

import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call `function(*args)` on each of `world_size` ranks and return the results in the order of the ranks.

    Results may hold anything that `torch.save` takes. An error on any rank ends the others and is raised here with its
    traceback; so does running longer than `timeout` seconds.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            ranks = [
                context.Process(target=_rank, args=(function, rank, world_size, folder, timeout, args))
                for rank in range(world_size)
            ]
            for process in ranks:
                process.start()
        try:
            _join(ranks, Path(folder), time.monotonic() + timeout)
        finally:
            for process in ranks:
                process.kill()
                process.join()
        return [torch.load(Path(folder) / f"result-{rank}.pt", weights_only=False) for rank in range(world_size)]


def _join(ranks, folder, deadline):
    """Wait for all ranks, but no longer than until the first failure: the others hang in a collective then."""
    running = list(ranks)
    while running:
        wait([process.sentinel for process in running], timeout=max(0.0, deadline - time.monotonic()))
        # The rank that failed first wrote its traceback first; the others' are about the lost connection.
        errors = sorted(folder.glob("error-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        if errors:
            raise RuntimeError(f"{errors[0].stem.replace('error-', 'rank ')} failed:\n{errors[0].read_text()}")
        died = [process for process in running if process.exitcode not in (None, 0)]
        if died:
            raise RuntimeError(f"rank {ranks.index(died[0])} died with exit code {died[0].exitcode}")
        running = [process for process in running if process.exitcode is None]
        if running and time.monotonic() > deadline:
            raise TimeoutError(f"ranks {[ranks.index(process) for process in running]} did not finish in time")


def _rank(function, rank, world_size, folder, timeout, args):
    torch.set_num_threads(1)  # before anything else: the forked copy of the parent's thread pool has no threads
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        torch.save(function(*args), f"{folder}/result-{rank}.pt")
        dist.barrier()  # nobody leaves while another still talks to it
        dist.destroy_process_group()
    except BaseException:
        partial = Path(folder) / f"writing-{rank}.txt"
        partial.write_text(traceback.format_exc())
        partial.rename(Path(folder) / f"error-{rank}.txt")
        raise SystemExit(1) from None
