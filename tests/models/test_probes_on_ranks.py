"""kNN and linear probe of given weights, through a real Trainer: on W ranks they are those of one process, to the image."""

import os

import lightning
import pytest
import torch
from drive import small
from lightning.pytorch.loggers import Logger
from ranks import run_ranks
from torch import nn

from kindred.callbacks.judges.feature_store import FeatureStore
from kindred.callbacks.judges.geometry import GeometryCallback
from kindred.callbacks.judges.knn import KNNCallback
from kindred.callbacks.judges.label_free import LabelFreeCallback
from kindred.callbacks.judges.linear_probe import LinearProbeCallback
from kindred.config import compose
from kindred.distributed import rank, world_size
from kindred.evaluation.geometry import tolerance
from kindred.models.simclr import SimCLR
from kindred.runs.run import build_datamodule


class Projection(nn.Sequential):
    """Digits -> 6 features, at random. In float64, so that float32 features do not depend on the size of a batch."""

    num_features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())

    def forward(self, images):
        return super().forward(images.double())


class Kept(Logger):
    """Everything that was logged, on every rank."""

    name = version = "kept"

    def __init__(self):
        super().__init__()
        self.metrics = {}

    def log_metrics(self, metrics, step=None):
        self.metrics.update({f"{name}@{step}": value for name, value in metrics.items()})

    def log_hyperparams(self, *args, **kwargs):
        pass


GEOMETRY = [f"val/{name}@{step}" for name in ("uniformity", "tolerance", "effective_rank") for step in (0, 3, 6)]
GEOMETRY += [f"val/projector_{name}@0" for name in ("uniformity", "tolerance", "effective_rank")]
JUDGES = ("rankme", "lidar", "alignment", "info_nce")  # of 6 features no alpha
JUDGED = [f"val/{name}@{step}" for name in JUDGES for step in (0, 3, 6)] + [
    f"val/projector_{name}@0" for name in JUDGES
]


def evaluate(labelled):
    """Untrained evaluation, then two epochs at a learning rate of 0: each fit goes on where the last one ended."""
    os.environ["LOCAL_RANK"] = str(rank())  # tells Lightning that the ranks have been started
    datamodule = build_datamodule(compose(["data=digits", "data.train_size=1003", "data.batch_size=258"]))
    datamodule.setup()
    if not labelled:  # two of three are, and the others count for nothing
        datamodule.bank.examples.labels[datamodule.bank.positions[::3]] = -1
    module = small(SimCLR, encoder=Projection)
    module.optimizer.keywords["lr"] = 0.0
    logger, store = Kept(), FeatureStore()
    judges = LabelFreeCallback(images=101 if labelled else 2)  # of three ranks one has none of two images
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy="ddp" if world_size() > 1 else "auto",
        devices=world_size(),
        max_epochs=2,
        limit_train_batches=3,
        log_every_n_steps=1,
        callbacks=[store, KNNCallback(k=20), LinearProbeCallback(), GeometryCallback(images=200), judges],
        logger=logger,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(module, datamodule, verbose=False)
    trainer.fit(module, datamodule)
    metrics = {name: value for name, value in logger.metrics.items() if "knn" in name or "linear" in name}
    # Later on the projector's batch norm has seen each rank's share alone: sync_batchnorm is off here.
    geometry = {
        k: v
        for k, v in logger.metrics.items()
        if k in GEOMETRY + JUDGED or k in ("train/alignment@1", "train/alignment@4")
    }
    assert labelled or int((store.bank.gathered().labels < 0).sum()) == 335
    return metrics, geometry, len(store.bank.labels), store.query.gathered()._asdict()


@pytest.mark.parametrize("labelled", [True, False])
def test_knn_and_probe_on_several_ranks_equal_those_on_one_to_the_image(labelled, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(lightning.pytorch.utilities.rank_zero_only, "rank", 0)
    metrics, geometry, bank, query = evaluate(labelled)
    assert (bank, len(query["labels"])) == (1003, 359)  # neither 2 nor 3 divides them
    tops = [f"val/{probe}_top{k}@{step}" for probe in ("knn", "linear") for k in (1, 5) for step in (0, 3, 6)]
    tops += [f"pixels/{probe}_top{k}@0" for probe in ("knn", "linear") for k in (1, 5)]
    assert metrics.keys() == set(tops)
    assert all(0.2 < value <= 1 and round(value * 359, 3) % 1 == 0 for value in metrics.values())
    assert all(value < 1 for name, value in metrics.items() if "top1" in name)
    assert geometry.keys() == {*GEOMETRY, *JUDGED, "train/alignment@1", "train/alignment@4"}
    # Weights that stay are judged by the same views of the same images at each evaluation.
    assert all(geometry[f"val/{name}@6"] == geometry[f"val/{name}@3"] == geometry[f"val/{name}@0"] for name in JUDGES)
    rows = torch.linspace(0, 358, 200).long()
    expected = tolerance(query["features"][rows], query["labels"][rows])
    assert geometry["val/tolerance@6"] == pytest.approx(float(expected), rel=1e-6)
    for ranks in (2, 3):
        results = run_ranks(evaluate, ranks, labelled)
        assert sorted(shard for _, _, shard, _ in results) == {2: [501, 502], 3: [334, 334, 335]}[ranks]
        for found, shape, _, gathered in results:
            assert found == metrics
            assert shape == pytest.approx(geometry, rel=1e-6)
            assert all(torch.equal(gathered[key], query[key]) for key in query)
