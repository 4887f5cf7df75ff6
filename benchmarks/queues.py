"""MoCo's queue and NNCLR's support set against lightly's memory banks: one step of each, on all cores.

    python benchmarks/queues.py [--output benchmarks/results] [--repeats 7] [--tiny]

The queue step is what a training step does with the queue: look its rows up, the loss of 256 queries and its gradient,
and enqueueing 256 keys; lightly does all of it in NTXentLoss with a memory bank. The lookup is that of 256 embeddings in
the support set, on Kindred's side the method's own function. Both banks are filled with the same vectors, and both answers
are compared before anything is timed. Wall time; a training step contains either once or twice.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import NNMemoryBankModule
from measure import alternate
from report import Row, save_rows
from torch import nn
from torch.nn.functional import normalize

from kindred.losses import info_nce
from kindred.memory import FeatureQueue
from kindred.models.nnclr import NNCLR

TEMPERATURE = 0.2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def queue_step(size: int, dim: int, batch: int, repeats: int) -> Row:
    rows, queries, keys = normalize(random(size, dim)), random(batch, dim, seed=1), random(batch, dim, seed=2)
    queries.requires_grad_()
    queue, lightly = FeatureQueue(size, dim), NTXentLoss(TEMPERATURE, memory_bank_size=(size, dim))
    queue.enqueue(rows)
    lightly.memory_bank.bank = rows.clone()

    def kindred_step() -> float:
        queries.grad = None
        loss = info_nce(queries, keys, queue.rows(), TEMPERATURE, unit_negatives=True)
        loss.backward()
        queue.enqueue(keys)
        return loss.detach()

    def lightly_step() -> float:
        queries.grad = None
        loss = lightly(queries, keys)
        loss.backward()
        return loss.detach()

    torch.testing.assert_close(kindred_step(), lightly_step(), rtol=1e-4, atol=0)
    seconds = alternate({"Kindred": (2, kindred_step), "lightly": (2, lightly_step)}, repeats)
    what = f"queue step, {size:,} x {dim}, batch {batch}: lookup, loss, gradient, enqueue"
    return Row(
        what, "lightly NTXentLoss with memory bank", "s", seconds["Kindred"], seconds["lightly"], "times less", 1.5
    )


class _Encoder(nn.Identity):
    num_features = 8  # NNCLR asks; the lookup does without it


def neighbour_lookup(size: int, dim: int, batch: int, repeats: int) -> Row:
    rows, embeddings = normalize(random(size, dim)), random(batch, dim, seed=1)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = NNCLR(_Encoder(), optimizer, projection_dim=dim, hidden_dim=8, predictor_dim=8, queue_size=size)
    module.support.enqueue(rows)
    lightly = NNMemoryBankModule(size=(size, dim))
    lightly.bank = rows.clone()

    unlabelled = torch.full((batch,), -1)

    def kindred_lookup() -> torch.Tensor:
        return module.neighbours(embeddings, unlabelled)[0][0]

    def lightly_lookup() -> torch.Tensor:
        return lightly(embeddings, update=False)

    torch.testing.assert_close(kindred_lookup(), lightly_lookup())
    seconds = alternate({"Kindred": (2, kindred_lookup), "lightly": (2, lightly_lookup)}, repeats)
    what = f"NNCLR lookup of {batch} in {size:,} x {dim}"
    return Row(what, "lightly NNMemoryBankModule", "s", seconds["Kindred"], seconds["lightly"], "times less", 1.8)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for queues.json and queues.md")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--tiny", action="store_true", help="small sizes: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    queue, support = ((512, 16, 8), (512, 16, 8)) if options.tiny else ((65_536, 128, 256), (98_304, 256, 256))
    rows = [queue_step(*queue, options.repeats), neighbour_lookup(*support, options.repeats)]
    save_rows(options.output, "queues", rows, ("torch", "lightly"), f"{torch.get_num_threads()} threads, wall time")
    return rows


if __name__ == "__main__":
    main()
