"""The number of negatives that matter: against explicit loops, on several ranks, and in a run."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from children import start
from outcomes import assert_same, outcome
from ranks import run_ranks

from kindred.callbacks import hardness
from kindred.callbacks.hardness import HardnessCallback
from kindred.distributed import rank, sum_over_ranks, world_size
from kindred.tracking.metrics_csv import read_metrics

GENERATOR = torch.Generator().manual_seed(0)
PROJECTIONS = torch.randn(2, 6, 4, generator=GENERATOR, dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0, 2, -1, 1])


def recorded(classes=None, temperature=0.2):
    """What the callback records of the global batch, on this rank."""
    share = slice(rank() * 6 // world_size(), (rank() + 1) * 6 // world_size())
    outputs = {"projections": PROJECTIONS[:, share], "temperature": temperature}
    if classes is not None:
        outputs["groups"] = classes[share]
    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        is_last_batch=False,
        global_step=10,
        log_every_n_steps=5,
        strategy=SimpleNamespace(reduce=lambda value: sum_over_ranks(value) / world_size()),
    )
    found = {}
    hardness.record = lambda trainer, metrics: found.update(metrics)
    HardnessCallback().on_train_batch_end(trainer, None, outputs, None, 0)
    return found


def loops(groups):
    flat, entropies = PROJECTIONS.flatten(0, 1), []
    for i in range(12):
        weights = [
            math.exp(F.cosine_similarity(flat[i], flat[j], dim=0) / 0.2) for j in range(12) if groups[i] != groups[j]
        ]
        entropies.append(-sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights))
    effective = sum(math.exp(entropy) for entropy in entropies) / 12
    return {"train/penalty_entropy": sum(entropies) / 12, "train/effective_negatives": effective}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_against_loops_on_any_number_of_ranks(world_size, classes):
    groups = list(range(6)) * 2 if classes is None else [0, 1, 0, 2, 7, 1] * 2
    for result in run_ranks(recorded, world_size, classes):
        assert {name: value.item() for name, value in result.items()} == pytest.approx(loops(groups), rel=1e-12)


def test_a_run_with_it_has_the_same_weights_and_says_how_many_negatives_matter(run, tmp_path):
    directory = tmp_path / "run"
    assert start(directory, ["callbacks=hardness"]) == 0
    rows = [row for row in read_metrics(directory / "metrics.csv") if row["step"] > 0]
    assert len(rows) == 12
    for row in rows:
        assert 0 < row["train/penalty_entropy"] < math.log(510)
        assert math.exp(row["train/penalty_entropy"]) <= row["train/effective_negatives"] * (1 + 1e-6) < 511
    assert_same(outcome(directory)["weights"], outcome(run)["weights"])
