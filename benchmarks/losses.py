"""NT-Xent forward and backward, in time and in memory, against lightly's and pytorch-metric-learning's NTXentLoss.

    python benchmarks/losses.py [--output benchmarks/results] [--repeats 7] [--tiny]

Time is wall time on all cores, of embeddings [2, B, 128] whose gradient is wanted; a turn is many calls where they are
short. Memory is how much the resident memory of a process grows at its peak in forward and backward, each contestant in a
process of its own. That all give the same loss is checked first. pytorch-metric-learning holds a matrix of all positive by
all negative pairs: where it would not fit into half of the free memory, it cannot take part, and the row says so. Where
it does, it takes seconds a call and is timed once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measure import alternate, in_fresh_process, peak_growth
from report import Row, save_rows
from torch import Tensor

TEMPERATURE = 0.5
WHAT = "NT-Xent forward + backward, D = 128, 2B = {:,}"


def embeddings(count: int) -> Tensor:
    """[2, count / 2, 128]"""
    return torch.randn(2, count // 2, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)


def contestant(name: str) -> Callable[[Tensor], Tensor]:
    """embeddings [2, B, D] -> loss"""
    if name == "Kindred":
        from kindred.losses import nt_xent

        return lambda pair: nt_xent(pair, TEMPERATURE)
    if name == "lightly":
        from lightly.loss import NTXentLoss

        lightly = NTXentLoss(temperature=TEMPERATURE)
        return lambda pair: lightly(*pair)
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    metric_learning = SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))
    return lambda pair: metric_learning(*pair)


def call(loss: Callable[[Tensor], Tensor], pair: Tensor) -> float:
    """Forward and backward; the loss."""
    pair.grad = None
    value = loss(pair)
    value.backward()
    return value.item()


def pair_matrix_gib(count: int) -> float:
    """GiB of pytorch-metric-learning's matrix of float32: each of `count` positive pairs by all negative ones."""
    return 4 * count * count * (count - 2) / 2**30


def free_gib() -> float:
    """Memory that new processes can have, on Linux."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def time_rows(count: int, repeats: int) -> list[Row]:
    pair, rivals = embeddings(count), {"lightly": "", "pytorch-metric-learning": ""}
    if pair_matrix_gib(count) > free_gib() / 2:
        rivals["pytorch-metric-learning"] = f"one of its matrices needs {pair_matrix_gib(count):,.0f} GiB"
    losses = {name: contestant(name) for name in ("Kindred", *(name for name, note in rivals.items() if not note))}
    expected = call(losses["Kindred"], pair)
    for name, loss in losses.items():
        torch.testing.assert_close(call(loss, pair), expected, rtol=1e-4, atol=0, msg=f"{name}: another loss")
    calls = max(1, min(64, (4096 // count) ** 2))
    turns = {name: (calls, lambda loss=loss: call(loss, pair)) for name, loss in losses.items()}
    slow = turns.pop("pytorch-metric-learning", None)
    seconds = alternate(turns, repeats)
    if slow:
        seconds |= alternate({"pytorch-metric-learning": (1, slow[1])}, 1)
    return [
        Row(
            WHAT.format(count),
            f"{name} NTXentLoss",
            "s",
            seconds["Kindred"],
            seconds.get(name, []),
            "times less",
            1.8,
            note,
        )
        for name, note in rivals.items()
    ]


def memory(name: str, count: int) -> list[float]:
    """MiB by which a process grows in `contestant(name)`, once, since it hardly varies."""
    loss = contestant(name)
    call(loss, embeddings(64))  # starts the thread pools
    pair = embeddings(count)
    return [peak_growth(lambda: call(loss, pair))]


def memory_row(count: int) -> Row:
    kindred, lightly = (in_fresh_process(memory, name, count) for name in ("Kindred", "lightly"))
    what = f"NT-Xent peak memory, D = 128, 2B = {count:,}"
    return Row(what, "lightly NTXentLoss", "MiB", kindred, lightly, "times less", 25)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for losses.json and losses.md")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    sizes, largest = ((32, 64), 2048) if options.tiny else ((512, 2048, 8192), 16_384)
    rows = [row for count in sizes for row in time_rows(count, options.repeats if count < 8192 else 3)]
    rows.append(memory_row(largest))
    packages = ("torch", "lightly", "pytorch-metric-learning")
    save_rows(options.output, "losses", rows, packages, f"{torch.get_num_threads()} threads, wall time")
    return rows


if __name__ == "__main__":
    main()
