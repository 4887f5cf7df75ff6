"""Runs whose weights are in shards: the numbers, checkpoints and files of any other run."""

import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from children import DIGITS, At, add_callback, kill_self, resume
from lightning import LightningModule
from outcomes import TIMES
from rank_helpers import as_ranks, start_ranks
from ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import FSDPModule

import kindred
from kindred.commands.train import main
from kindred.config import ConfigError, build, compose
from kindred.config import check as config_check
from kindred.distributed import rank
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.reading.weights import read_checkpoint
from kindred.runs.run import build_module
from kindred.tracking.metrics_csv import read_metrics
from kindred.training.fsdp import FullySharded, check

CPU = ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2", "trainer.fused=false"]
SHARDED = [
    "trainer=fsdp",
    *CPU,
    "trainer.max_epochs=2",
    "trainer.check_val_every_n_epoch=1",
    "trainer.log_every_n_steps=1",
]
EXACT = ["trainer.precision=64-true"]  # so that rounding, of sums in another order, is all there is between them
COMMON = ["trainer.max_epochs=2", *EXACT]
LARS = [
    "model.optimizer={_target_: kindred.optimisers.lars.LARS, _partial_: true, lr: 0.1}",
]
METHODS = {
    "simclr": [],
    "mocov2": ["model.symmetric=false", "model.queue_size=1500"],
    "nnclr": ["model.queue_size=600", "model.predictor_dim=32"],
    "supcon": [],
}


def state(run):
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


def assert_same_run(run, other, tolerance):
    ours, theirs = state(run), state(other)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=tolerance, atol=tolerance, msg=name)
    (one,), (two,) = (found["optimizer_states"] for found in (ours, theirs))
    assert [group["params"] for group in one["param_groups"]] == [group["params"] for group in two["param_groups"]]
    for number, found in two["state"].items():
        momentum = one["state"][number]["momentum_buffer"]
        assert type(momentum) is torch.Tensor
        torch.testing.assert_close(momentum, found["momentum_buffer"], rtol=tolerance, atol=tolerance)
    for row, expected in zip(read_metrics(run / "metrics.csv"), read_metrics(other / "metrics.csv"), strict=True):
        for name in expected.keys() - TIMES:
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=0.01, nan_ok=True), name  # of 359 images


@pytest.mark.slow
@pytest.mark.parametrize("model", METHODS)
def test_a_run_in_shards_is_that_of_ddp_and_goes_on_after_a_kill_and_elsewhere(model, tmp_path):
    settings = [f"model={model}", *METHODS[model]]
    assert start_ranks(tmp_path / "whole", [*settings, *COMMON]) == [0, 0]
    killed = start_ranks(tmp_path / "run", [*settings, *SHARDED, *EXACT], lambda rank: add_callback(At(3, kill_self)))
    assert killed == [-signal.SIGKILL] * 2
    assert state(tmp_path / "run")["global_step"] == 2
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    assert as_ranks(2, lambda rank: main([f"resume={tmp_path / 'run'}", *SHARDED, *EXACT])) == [0, 0]
    assert_same_run(tmp_path / "run", tmp_path / "whole", 1e-9)
    assert resume(tmp_path / "elsewhere", ["trainer=cpu", "trainer.max_epochs=2"]) == 0
    assert_same_run(tmp_path / "elsewhere", tmp_path / "whole", 1e-9)


@pytest.mark.slow
def test_what_ddp_began_goes_on_in_shards_and_is_exported(tmp_path):
    run = tmp_path / "run"
    assert start_ranks(tmp_path / "whole", COMMON) == [0, 0]
    assert start_ranks(run, COMMON, lambda rank: add_callback(At(3, kill_self))) == [-signal.SIGKILL] * 2
    assert as_ranks(2, lambda rank: main([f"resume={run}", *SHARDED, *EXACT])) == [0, 0]
    assert_same_run(run, tmp_path / "whole", 1e-9)
    loaded = kindred.load_run(run)
    path = export(loaded, "safetensors")
    images = torch.rand(3, 1, 8, 8)
    features = load_encoder(path)(images)
    torch.testing.assert_close(features, loaded.datamodule().views.exported(loaded.encoder).eval()(images))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.chunks=2"], r"model\.chunks=2 with trainer=fsdp: .*set 1"),
        (["temperature=learnable"], r"model\.temperature with trainer=fsdp: .*give a number"),
        (LARS, r"model\.optimizer with trainer=fsdp: LARS"),
        (["trainer.compile=true"], r"trainer\.compile=true with trainer=fsdp"),
        (["trainer.channels_last=true"], r"trainer\.channels_last=true with trainer=fsdp"),
        (["trainer.gradient_clip_val=1.0"], r"trainer\.gradient_clip_val with trainer=fsdp"),
    ],
)
def test_what_does_not_work_in_shards_is_refused(overrides, message):
    config = compose([*DIGITS, *SHARDED, *overrides])
    config_check(config)
    trainer = build(config, "trainer", logger=False, callbacks=[])
    with pytest.raises(ConfigError, match=rf"^{message}[^\n]*$"):
        check(build_module(config), trainer)


def test_it_is_refused_before_there_is_a_run(tmp_path, capfd):
    assert start_ranks(tmp_path / "run", [*SHARDED, "model.chunks=2"]) == [1, 1]
    (line,) = [text for text in capfd.readouterr().err.splitlines() if text.startswith("error")]
    assert line.startswith("error: model.chunks=2 with trainer=fsdp: ")
    assert not (tmp_path / "run").exists()


class Parts(nn.Module):
    """What a shard is: parts with weights, not those with norms only, nor lists, which are not called."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.more = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ModuleList([nn.Linear(6, 2)])

    def forward(self, x):
        return self.more[0](self.norm(self.first(x)))


def sharded_gradients():
    torch.manual_seed(0)
    strategy = FullySharded(accelerator=None, parallel_devices=[torch.device("cpu")] * 2)
    strategy.cluster_environment = SimpleNamespace(
        local_rank=lambda: rank(), global_rank=lambda: rank(), world_size=lambda: 2
    )
    module = LightningModule()
    module.network = Parts().double()
    strategy._lightning_module = module
    strategy.model = module
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    strategy.configure_ddp()
    sharded = [name for name, part in module.named_modules() if isinstance(part, FSDPModule)]
    held = {name: weight.to_local().numel() for name, weight in module.named_parameters()}
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    module.network(inputs[4 * rank() :][:4]).square().mean().backward()
    gradients = {name: weight.grad.full_tensor() for name, weight in module.named_parameters()}
    found = strategy.lightning_module_state_dict()
    doubled = {name: value * 2 for name, value in found.items()}
    strategy.load_model_state_dict({"state_dict": doubled})
    loaded = strategy.lightning_module_state_dict()
    return whole, sharded, held, gradients, found, loaded, doubled


def test_each_rank_holds_half_and_gradients_are_the_mean_of_the_ranks():
    results = run_ranks(sharded_gradients, 2)
    whole, sharded, held, gradients, *_ = results[0]
    assert sharded == ["network", "network.first"]
    assert held["network.first.weight"] == 12
    network = Parts().double()
    network.load_state_dict({name.removeprefix("network."): value for name, value in whole.items()})
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (sum(network(half).square().mean() for half in inputs.split(4)) / 2).backward()
    for name, weight in network.named_parameters():
        torch.testing.assert_close(gradients[f"network.{name}"], weight.grad, rtol=1e-10, atol=1e-12)
    for *_, found, loaded, doubled in results:
        for name, value in loaded.items():
            assert type(found[name]) is torch.Tensor
            torch.testing.assert_close(value, doubled[name])
