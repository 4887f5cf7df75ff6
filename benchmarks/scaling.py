"""How time and memory grow with the global batch, the queue and the bank, against what theory says.

    python benchmarks/scaling.py [--output benchmarks/results] [--page docs/scaling.md] [--largest] [--tiny]

Three curves, each over sizes a factor of 2 or 4 apart: the loss (NT-Xent forward and backward of 2B embeddings of 128),
the queue (MoCo's step of 256 queries in K keys of 128) and the bank (the 200 nearest of 256 queries in N features of 512).
Exponents are the slopes of straight lines on log-log axes through the three largest sizes, where what does not depend on
the size no longer counts. Memory is the growth of a process of its own; the loss's is without its tile of logits,
whose size is known and does not grow. `--page` writes what follows for ImageNet-1k (imagenet.py). `--largest` goes on to
sizes that need tens of minutes and 24 GiB.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import alternate, in_fresh_process, peak_growth
from report import Row, save_rows

from kindred.evaluation.knn import knn_search
from kindred.losses import info_nce, nt_xent
from kindred.losses.partition import default_chunk_size
from kindred.memory import FeatureQueue

DIM, FEATURES, QUERIES, NEIGHBOURS = 128, 512, 256, 200
UPPER = 3
# name -> (what its sizes are, sizes, theory's exponents of time and of memory)
CURVES = {
    "loss": ("global batch", [256 * 2**i for i in range(7)], 2, 1),
    "queue": ("queue", [1024 * 4**i for i in range(6)], 1, 1),
    "bank": ("bank", [1024 * 4**i for i in range(6)], 1, 1),
}
TINY = {"loss": [128, 256, 512], "queue": [512, 1024, 2048], "bank": [512, 1024, 2048]}
LARGEST = {"loss": [32_768, 65_536], "queue": [4 * 2**20], "bank": [4 * 2**20]}
WHAT = {
    "loss": "NT-Xent, 2B embeddings of 128",
    "queue": f"MoCo's queue and its step, {QUERIES} queries, keys of {DIM}",
    "bank": f"bank and search, {QUERIES} queries, features of {FEATURES}, k = {NEIGHBOURS}",
}


def loss_call(batch: int) -> Callable[[], None]:
    pair = torch.randn(2, batch, DIM, requires_grad=True)

    def call() -> None:
        pair.grad = None
        nt_xent(pair, 0.5).backward()

    return call


def queue_call(size: int) -> Callable[[], None]:
    queue, queries, keys = (
        FeatureQueue(size, DIM),
        torch.randn(QUERIES, DIM, requires_grad=True),
        torch.randn(QUERIES, DIM),
    )
    for _ in range(0, size, 512):  # in small parts, so that filling it needs no memory beside it
        queue.enqueue(torch.randn(512, DIM))

    def call() -> None:
        queries.grad = None
        info_nce(queries, keys, queue.rows(), 0.2, unit_negatives=True).backward()
        queue.enqueue(keys)

    return call


def bank_call(size: int) -> Callable[[], None]:
    bank, queries = torch.empty(size, FEATURES).normal_(), torch.randn(QUERIES, FEATURES)
    return lambda: knn_search(bank, queries, NEIGHBOURS)


CALLS = {"loss": loss_call, "queue": queue_call, "bank": bank_call}


def memory(name: str, sizes: list[int]) -> list[list[float]]:
    """MiB of each size, once, since it hardly varies: of building what is held, and using it."""
    CALLS[name](512)()  # starts the thread pools
    return [[peak_growth(lambda size=size: _hold_and_use(name, size))] for size in sizes]


def _hold_and_use(name: str, size: int) -> Callable[[], None]:
    call = CALLS[name](size)
    call()
    return call


def tile_mib(batch: int) -> float:
    """The tile of logits of 2 x `batch` embeddings."""
    rows = 2 * batch
    return min(default_chunk_size(torch.empty(rows, 1)), rows) * rows * 4 / 2**20


def slope(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """(exponent, value at size 1) of the straight line on log-log axes."""
    exponent, constant = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(exponent), float(np.exp(constant))


def curve(name: str, sizes: list[int], repeats: int) -> dict:
    """Seconds of every size in every repeat, and MiB."""
    seconds = []
    for size in sizes:
        call, start = CALLS[name](size), time.perf_counter()
        call()
        calls = max(1, min(100, int(0.1 / (time.perf_counter() - start))))
        seconds.append(alternate({name: (calls, call)}, repeats)[name])
        del call
    held = in_fresh_process(memory, name, sizes)
    if name == "loss":
        held = [[each - tile_mib(size) for each in turns] for size, turns in zip(sizes, held, strict=True)]
    return {"sizes": sizes, "seconds": seconds, "mib": held}


def rows_of(name: str, measured: dict) -> list[Row]:
    """The exponents of one curve, one per repeat, against the theory's."""
    what, _, *theory = CURVES[name]
    sizes = measured["sizes"][-UPPER:]
    rows = []
    for kind, key, exponent in zip(("time", "memory"), ("seconds", "mib"), theory, strict=True):
        exponents = [slope(sizes, turn)[0] for turn in zip(*measured[key][-UPPER:], strict=True)]
        title = f"{WHAT[name]}: {kind} against the {what}, {sizes[0]:,} to {sizes[-1]:,}"
        rows.append(Row(title, "theory", "exponent", exponents, [float(exponent)], "off by", 0.1))
    return rows


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for scaling.json and scaling.md")
    parser.add_argument("--page", type=Path, help="the page whose tables are written anew: docs/scaling.md")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each size")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--largest", action="store_true", help="sizes beyond a laptop's patience")
    size.add_argument("--tiny", action="store_true", help="small sizes: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    measured = {}
    for name, (_, sizes, *_) in CURVES.items():
        sizes = TINY[name] if options.tiny else sizes + (LARGEST[name] if options.largest else [])
        measured[name] = curve(name, sizes, options.repeats)
    rows = [row for name in measured for row in rows_of(name, measured[name])]
    notes = f"{torch.get_num_threads()} threads, wall time"
    save_rows(options.output, "scaling", rows, ("torch",), notes, curves=measured)
    if options.page:
        from imagenet import write_page

        write_page(options.page, measured, options.output)
    return rows


if __name__ == "__main__":
    main()
