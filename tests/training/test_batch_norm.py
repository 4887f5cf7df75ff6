"""Batch norm over ranks on a CPU against torch's of the whole batch, in layers and in whole runs."""

from itertools import product

import pytest
import torch
from children import start
from outcomes import TIMES
from rank_helpers import start_ranks
from ranks import run_ranks
from timm.layers import BatchNormAct2d
from torch import nn

from kindred.data.datamodule import DataModule
from kindred.distributed import rank, world_size
from kindred.models.parts.key_splits import make_local
from kindred.runs import train
from kindred.runs.reading.weights import read_checkpoint
from kindred.tracking.metrics_csv import read_metrics
from kindred.training.batch_norm import SyncBatchNorm, synchronise

LAYERS = {
    "images": (lambda: nn.BatchNorm2d(3, momentum=0.3), (12, 3, 4, 5)),
    "features": (lambda: nn.BatchNorm1d(3), (12, 3)),
    "a cumulative average": (lambda: nn.BatchNorm1d(3, momentum=None), (12, 3)),
    "no bias": (lambda: nn.BatchNorm1d(3, bias=False), (12, 3)),
    "no weights": (lambda: nn.BatchNorm2d(3, affine=False, eps=0.1), (12, 3, 4, 5)),
    "with an activation": (lambda: BatchNormAct2d(3, act_layer=nn.SiLU), (12, 3, 4, 5)),
    "no running statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (12, 3, 4, 5)),
}


def own(x):
    return x.chunk(world_size())[rank()]


def run(name, dtype=torch.float64):
    """Three batches through a layer in training mode, then one in evaluation: outputs, gradients and the layer's state."""
    make, shape = LAYERS[name]
    layer = make().to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(3, generator=generator, dtype=torch.float64).to(dtype)
    (layer,) = synchronise(nn.Sequential(layer)) if world_size() > 1 else (layer,)
    assert isinstance(layer, SyncBatchNorm) == (world_size() > 1)
    results = []
    # Without running statistics an evaluation has each rank's own, as with torch's.
    for batch in range(4 if layer.track_running_stats else 3):
        x, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        x = own((3 * x + 5 * batch).to(dtype)).requires_grad_()
        layer.train(batch < 3)
        y = layer(x)
        assert y.dtype == dtype
        # A sum over all values: each rank's part of it, whose gradients add up.
        (y.sin() * own(weights).to(dtype)).sum().backward()
        results += [y.detach(), x.grad]
    gradients = [p.grad for p in layer.parameters()]
    return results, gradients, [b.double() for b in layer.buffers()]


@pytest.mark.parametrize(("ranks", "name"), list(product([2, 3], LAYERS)))
def test_outputs_gradients_and_running_statistics_are_those_of_the_whole_batch(ranks, name):
    outputs, gradients, buffers = run(name)
    parts = run_ranks(run, ranks, name)
    close = {"rtol": 1e-10, "atol": 1e-12}
    for number, whole in enumerate(outputs):
        torch.testing.assert_close(torch.cat([part[0][number] for part in parts]), whole, **close)
    for number, whole in enumerate(gradients):
        torch.testing.assert_close(sum(part[1][number] for part in parts), whole, **close)
    for part in parts:
        torch.testing.assert_close(part[2], buffers, **close)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_in_less_precision(dtype, tolerance):
    outputs, _, buffers = run("images", dtype)
    parts = run_ranks(run, 2, "images", dtype)
    for number, whole in enumerate(outputs):
        found = torch.cat([part[0][number] for part in parts])
        torch.testing.assert_close(found, whole, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(parts[1][2], buffers, rtol=tolerance, atol=tolerance)


def alone():
    (layer,) = synchronise(nn.Sequential(nn.BatchNorm1d(2)))
    make_local(nn.Sequential(layer))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(rank()))
    return layer(x), nn.BatchNorm1d(2)(x)


def test_a_layer_that_was_made_local_sees_its_own_rank_alone():
    for found, expected in run_ranks(alone, 2):
        torch.testing.assert_close(found, expected)


class Whitening(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input) / 2


def test_a_batch_norm_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"encoder: Whitening is a batch norm of its own kind.*sync_batchnorm=false"):
        synchronise(nn.Sequential(nn.BatchNorm1d(2), Whitening(2)))


def in_double(_=None):
    """The runs of this process compute in float64."""
    build, transfer = train.build_module, DataModule.on_after_batch_transfer

    def transfer_double(datamodule, batch, number):
        batch = transfer(datamodule, batch, number)
        return batch._replace(views=tuple(view.double() for view in batch.views))

    train.build_module = lambda config: build(config).double()
    DataModule.on_after_batch_transfer = transfer_double


RUN = ["data.batch_size=96", "data.train_size=288", "model.warmup_epochs=0"]
METHODS = {
    "simclr": [],
    "mocov2": ["model.queue_size=600", "model.projection_dim=16"],
    "nnclr": ["model.queue_size=600", "model.projection_dim=16", "model.predictor_dim=32"],
    "supcon": ["model.projection_dim=16"],
}


NOT_HERE = ("figures", "linear_probe", "label_free")  # the last encodes views of its own, which are float32


@pytest.mark.parametrize(
    ("model", "ranks"),
    [
        ("simclr", 2),
        *(pytest.param(m, r, marks=pytest.mark.slow) for m, r in product(METHODS, (2, 3)) if (m, r) != ("simclr", 2)),
    ],
)
def test_the_number_of_processes_does_not_change_a_run_with_batch_norm(model, ranks, tmp_path):
    settings = [
        *RUN,
        f"model={model}",
        *METHODS[model],
        "~callbacks.figures",
        "~callbacks.linear_probe",
        "~callbacks.label_free",
    ]
    assert start(tmp_path / "one", settings, in_double) == 0
    assert start_ranks(tmp_path / "many", settings, in_double, ranks) == [0] * ranks
    one, many = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "many"))
    assert [row["step"] for row in one] == [row["step"] for row in many]
    for row, other in zip(one, many, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - TIMES:
            assert row[name] == pytest.approx(other[name], rel=1e-6, abs=1e-6), (name, row["step"])
    one, many = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "many")
    )
    for name, weight in one.items():
        torch.testing.assert_close(
            many[name], weight, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )
