"""kNN classification against lightly's knn_predict, in time and in memory.

    python benchmarks/knn.py [--output benchmarks/results] [--repeats 3] [--tiny]

Both start from features as an encoder gives them and end with the classes of every query in order of their scores
(k = 200, T = 0.1, 10 classes). lightly's function wants unit features, the bank's transposed, and a batch of queries: that
is prepared as its BenchmarkModule does, and the batch size is the fastest on a tenth of the queries. Wall time on all
cores. Memory is the growth of a process of its own beyond the features it was given. That both name the same first class
is checked.
"""

import argparse
from pathlib import Path

import torch
from measure import alternate, in_fresh_process, peak_growth
from report import Row, save_rows
from torch import Tensor
from torch.nn.functional import normalize

CLASSES, TEMPERATURE = 10, 0.1
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048)


def features(count: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features [count, dim] that lie around their classes' centres, and labels [count]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, dim, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return 0.3 * centres[labels] + torch.randn(count, dim, generator=generator), labels


def by_kindred(bank: Tensor, labels: Tensor, queries: Tensor, k: int) -> Tensor:
    """Classes [Q, C] in order of their scores."""
    from kindred.evaluation.knn import knn_classify

    return knn_classify(bank, labels, queries, k, TEMPERATURE, CLASSES).argsort(dim=1, descending=True)


def by_lightly(bank: Tensor, labels: Tensor, queries: Tensor, k: int, batch_size: int) -> Tensor:
    from lightly.utils.benchmarking import knn_predict

    bank = normalize(bank, dim=1).t().contiguous()
    parts = normalize(queries, dim=1).split(batch_size)
    return torch.cat([knn_predict(part, bank, labels, CLASSES, k, TEMPERATURE) for part in parts])


def memory(name: str, bank_size: int, queries: int, dim: int, k: int, batch_size: int) -> list[float]:
    """MiB by which a process grows."""
    (bank, labels), (asked, _) = features(bank_size, dim, 1), features(queries, dim, 2)
    arguments = () if name == "Kindred" else (batch_size,)
    work = by_kindred if name == "Kindred" else by_lightly
    work(bank[:1000], labels[:1000], asked[:10], k, *arguments)  # starts the thread pools
    return [peak_growth(lambda: work(bank, labels, asked, k, *arguments))]


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for knn.json and knn.md")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    bank_size, count, dim, k = (1000, 128, 16, 20) if options.tiny else (50_000, 10_000, 512, 200)
    (bank, labels), (queries, _) = features(bank_size, dim, 1), features(count, dim, 2)

    some = queries[: max(count // 10, 1)]
    choices = {size: (1, lambda size=size: by_lightly(bank, labels, some, k, size)) for size in BATCH_SIZES}
    tried = alternate(choices, 1)
    batch_size = min(tried, key=lambda size: tried[size][0])

    same = by_kindred(bank, labels, some, k)[:, 0] == by_lightly(bank, labels, some, k, batch_size)[:, 0]
    assert same.float().mean() > 0.99, "the two disagree"  # equal scores may come in another order
    turns = {
        "Kindred": (1, lambda: by_kindred(bank, labels, queries, k)),
        "lightly": (1, lambda: by_lightly(bank, labels, queries, k, batch_size)),
    }
    seconds = alternate(turns, options.repeats)
    sizes = (bank_size, count, dim, k, batch_size)
    held = {name: in_fresh_process(memory, name, *sizes) for name in turns}

    what = f"kNN, bank {bank_size:,} x {dim}, {count:,} queries, k = {k}"
    peer = f"lightly knn_predict, {batch_size} queries at a time"
    rows = [
        Row(f"{what}: time", peer, "s", seconds["Kindred"], seconds["lightly"], "times less", 1.0),
        Row(f"{what}: peak memory", peer, "MiB", held["Kindred"], held["lightly"], "times less", 4.0),
    ]
    save_rows(options.output, "knn", rows, ("torch", "lightly"), f"{torch.get_num_threads()} threads, wall time")
    return rows


if __name__ == "__main__":
    main()
