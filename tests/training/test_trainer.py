"""What the trainer's own settings change, and what they do not."""

import gc
import os
import re
import subprocess
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import lightning
import pytest
import torch
from children import DIGITS, start
from torch import nn

import kindred
from kindred.config import ConfigError, build, check, compose
from kindred.memory import FeatureQueue
from kindred.optimisers.lars import LARS
from kindred.runs.reading.weights import read_checkpoint
from kindred.temperature import Learnable


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        self.projector = nn.Linear(4, 2)
        self.queue = FeatureQueue(8, 2)
        self.tau = Learnable()
        self.optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def trainer(*overrides):
    config = compose(["trainer=cpu", "trainer.enable_progress_bar=false", *overrides])
    check(config)
    return build(config, "trainer", logger=False, callbacks=[])


def test_the_garbage_collector_passes_over_the_libraries_while_training_only(monkeypatch):
    frozen = []

    def fit(self, module):
        frozen.append(gc.get_freeze_count())
        raise KeyboardInterrupt

    monkeypatch.setattr(lightning.Trainer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(None)
    assert frozen[0] > 100_000  # lightning's and torch's
    assert gc.get_freeze_count() == 0


def test_channels_last_changes_the_order_in_memory_and_no_value():
    module, images = Module(), torch.rand(2, 3, 3, 3)
    before = module.encoder(images)
    trainer("trainer.channels_last=true").speed_up(module)
    assert module.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module.encoder(images), before)


def test_compiling_touches_every_part_and_no_name(monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    module = Module()
    trainer().speed_up(module)
    assert compiled == []
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    trainer("trainer.compile=true").speed_up(module)
    assert compiled == [module.encoder, module.projector]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "kindred" / "inductor")


def test_compiled_code_lies_where_the_user_wants_it(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/theirs")
    trainer("trainer.compile=true").speed_up(Module())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/theirs"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_optimiser_makes_the_same_steps(optimizer):
    weights = []
    for fused in ("false", "true"):
        torch.manual_seed(0)
        module = Module()
        module.optimizer = partial(optimizer, lr=0.1)
        trainer(f"trainer.fused={fused}").speed_up(module)
        made = module.optimizer(module.encoder.parameters())
        assert made.param_groups[0]["fused"] is (True if fused == "true" else None)
        for seed in range(3):
            module.encoder(
                torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
            ).square().sum().backward()
            made.step()
        weights.append(module.encoder[0].weight)
    torch.testing.assert_close(*weights)


def test_what_the_optimiser_was_told_wins_and_lars_has_nothing_to_fuse():
    module = Module()
    module.optimizer = partial(torch.optim.SGD, lr=0.1, fused=False)
    trainer("trainer.fused=true").speed_up(module)
    assert module.optimizer.keywords == {"lr": 0.1, "fused": False}
    module.optimizer = partial(LARS, lr=0.1)
    trainer("trainer.fused=true").speed_up(module)
    assert module.optimizer.keywords == {"lr": 0.1}


@pytest.mark.parametrize(
    ("accelerator", "gpu", "expected"), [("auto", True, True), ("cpu", True, False), ("auto", False, False)]
)
def test_gpus_get_bfloat16_and_fused_optimisers_and_cpus_channels_last_too(monkeypatch, accelerator, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    settings = compose([f"trainer.accelerator={accelerator}"]).trainer
    assert settings.channels_last
    assert (settings.precision == "bf16-mixed") == settings.fused == expected
    assert settings.precision in ("bf16-mixed", "32-true")


def test_a_key_that_neither_lightning_nor_kindred_knows():
    config = compose(["+trainer.compiled=true"])
    with pytest.raises(ConfigError, match=r"trainer.compiled: .* takes no 'compiled'; did you mean 'compile'"):
        check(config)


@pytest.mark.parametrize(
    "settings",
    [["model=mocov2"], *(pytest.param([m], marks=pytest.mark.slow) for m in ("model=nnclr", "model=supcon"))],
)
def test_double_precision_trains_on_the_same_views(tmp_path, settings):
    short = ["trainer.max_epochs=1", "model.projection_dim=16", *settings]
    short += ["model.queue_size=512"] if settings != ["model=supcon"] else []
    for name in ("32-true", "64-true"):
        assert start(tmp_path / name, [*short, f"trainer.precision={name}"]) == 0
    single, double = (kindred.load_run(tmp_path / name) for name in ("32-true", "64-true"))
    first = [loaded.metrics["train/loss"][1] for loaded in (single, double)]
    assert first[1] == pytest.approx(first[0], rel=1e-5)
    state = read_checkpoint(double.path / "checkpoints" / "last.ckpt")["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float64}
    assert double.metrics["val/knn_top1"][-1] == pytest.approx(single.metrics["val/knn_top1"][-1], abs=0.05)
    assert double.encoder(torch.rand(4, 1, 8, 8)).dtype == torch.float32  # as judged and exported


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "transformer-engine", "16-mixed", "16", "fp32"])
def test_a_precision_that_does_not_work_is_refused_with_those_that_do(tmp_path, capfd, precision):
    assert start(tmp_path / "run", [f"trainer.precision={precision}"]) == 1
    printed = capfd.readouterr().err.strip()
    assert re.fullmatch(rf"error: trainer\.precision={precision}: .*bf16-mixed.*64-true.*", printed)
    assert not (tmp_path / "run").exists()


def test_the_interval_of_rows_fits_the_epoch_where_nothing_was_asked_for(tmp_path):
    for interval, steps in (("null", [0, 4, 8, 12]), ("3", [0, 3, 4, 6, 8, 9, 12])):
        run = tmp_path / interval

        def prepare():
            warnings.filterwarnings("error", message="The number of training batches")

        assert start(run, [f"trainer.log_every_n_steps={interval}"], prepare) == 0
        rows = kindred.load_run(run).metrics
        assert list(rows["step"]) == steps
    built = trainer()
    built.strategy._lightning_module = SimpleNamespace(steps_per_epoch=43)
    assert built.log_every_n_steps == 10


@pytest.mark.slow
def test_a_compiled_run_gives_the_same_numbers(run, tmp_path):
    """torch.compile rounds a little differently, so the first steps' losses agree, and later ones nearly."""
    command = [sys.executable, "-m", "kindred", "train", *DIGITS, "trainer.compile=true", f"run_dir={tmp_path / 'run'}"]
    one_process = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    own_cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run(command, check=True, timeout=280, env=one_process | own_cache, capture_output=True)
    compiled, plain = kindred.load_run(tmp_path / "run"), kindred.load_run(run)
    losses = [loaded.metrics["train/loss"][1:] for loaded in (compiled, plain)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=0.01)
    states = [read_checkpoint(loaded.path / "checkpoints" / "last.ckpt")["state_dict"] for loaded in (compiled, plain)]
    assert states[0].keys() == states[1].keys()
    assert compiled.encoder(torch.rand(4, 1, 8, 8)).shape == (4, 16)
