"""The main job, as a person types it and as callbacks see it."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from children import DIGITS, add_callback, in_child, start
from lightning import Callback

from kindred.config import compose
from kindred.runs import train
from kindred.runs.reading.weights import read_checkpoint
from kindred.tracking.metrics_csv import read_metrics

ROOT = Path(__file__).parents[2]


def weights(directory):
    return read_checkpoint(directory / "checkpoints" / "last.ckpt")["state_dict"]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_probes_observe(run, tmp_path):
    """Without kNN, probe and pictures the weights are the same to the bit."""
    without = [
        "~callbacks.knn",
        "~callbacks.linear_probe",
        "~callbacks.figures",
        "~callbacks.train_metrics",
        "~callbacks.geometry",
    ]
    assert start(tmp_path / "run", without) == 0
    assert_same_weights(weights(tmp_path / "run"), weights(run))


def test_the_last_epoch_is_evaluated_whatever_the_schedule(tmp_path):
    assert start(tmp_path / "run", ["trainer.check_val_every_n_epoch=2"]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["epoch"] for row in rows if "val/knn_top1" in row] == [0, 2, 3]


@pytest.mark.slow
def test_knn_may_be_rarer_than_the_evaluation_but_not_out_of_step(tmp_path, capfd):
    assert start(tmp_path / "run", ["callbacks.knn.every_n_epochs=2"]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["epoch"] for row in rows if "val/knn_top1" in row] == [0, 2, 3]
    assert [row["epoch"] for row in rows if "val/linear_top1" in row] == [0, 1, 2, 3]
    assert start(tmp_path / "bad", ["callbacks.knn.every_n_epochs=3", "trainer.check_val_every_n_epoch=2"]) == 1
    assert "every_n_epochs=3 is no multiple of trainer.check_val_every_n_epoch=2" in capfd.readouterr().err


@pytest.mark.slow
def test_init_from_starts_from_the_given_encoder(run, tmp_path):
    class KeepStart(Callback):
        def on_train_start(self, trainer, module):
            torch.save(module.encoder.state_dict(), tmp_path / "start.pt")

    assert start(tmp_path / "run", [f"init_from={run}"], prepare=lambda: add_callback(KeepStart())) == 0
    expected = {k.removeprefix("encoder."): v for k, v in weights(run).items() if k.startswith("encoder.")}
    assert_same_weights(torch.load(tmp_path / "start.pt", weights_only=True), expected)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, capfd):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 6:
                module.encoder.layers[0].weight.data.fill_(torch.nan)

    assert start(tmp_path / "run", prepare=lambda: add_callback(Poison())) == 1
    assert "train/loss is not finite at step 7" in capfd.readouterr().err
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 6
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_loss_that_is_not_finite_between_two_logs_is_not_saved(tmp_path):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 5:
                module.encoder.layers[0].weight.data.fill_(torch.nan)

    rare = ["trainer.log_every_n_steps=1000"]
    assert start(tmp_path / "run", rare, prepare=lambda: add_callback(Poison())) == 1
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 4


def test_a_collapsed_representation_is_a_warning(tmp_path, capfd):
    class Collapse(Callback):
        def on_validation_start(self, trainer, module):
            for parameter in module.encoder.parameters():
                parameter.data.zero_()
            module.encoder.layers[1].bias.data.fill_(1.0)
            module.encoder.layers[4].bias.data.fill_(1.0)

    def prepare():
        add_callback(Collapse())
        warnings.filterwarnings("error", message="The representation")  # pytest keeps a child's warnings to itself

    assert start(tmp_path / "run", ["trainer.max_epochs=1"], prepare=prepare) != 0
    assert "The representation has collapsed" in capfd.readouterr().err


def test_train_from_python_returns_the_summary(tmp_path):
    def body():
        summary = train.train(compose([*DIGITS, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1"]))
        assert summary["epochs"] == 1
        assert summary["val/knn_top1"] > 0.5

    assert in_child(body) == 0


@pytest.mark.slow
def test_mixed_precision_clipping_and_another_optimiser_are_plain_keys(tmp_path):
    overrides = [
        *("trainer.gradient_clip_val=0.5", "trainer.precision=bf16-mixed", "trainer.max_epochs=1"),
        *("model.optimizer._target_=kindred.optimisers.lars.LARS", "model.optimizer.weight_decay=1e-6"),
    ]
    assert start(tmp_path / "run", overrides) == 0
    overrides = ["model.optimizer._target_=torch.optim.AdamW", "~model.optimizer.momentum", "trainer.max_epochs=1"]
    assert start(tmp_path / "adamw", overrides) == 0
    assert "train/loss" in read_metrics(tmp_path / "adamw" / "metrics.csv")[-1]


def make(*arguments):
    """Run make with the environment of this Python."""
    command = ["make", *arguments, f"VENV={Path(sys.executable).parents[1]}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_make_debug_runs_a_few_batches_of_everything(tmp_path):
    done = make("train", "MODEL=simclr", "DATA=digits", "DEBUG=1", "SEED=3", f"ARGS=log_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    directory = (tmp_path / "latest").resolve()
    assert directory.parent == tmp_path / "digits" / "simclr"
    rows = read_metrics(directory / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert "linear probe, last epoch" in done.stdout
    assert "make train RESUME=" in done.stdout


@pytest.mark.slow
def test_make_profile_writes_a_profile(tmp_path):
    done = make("train", "DATA=digits", "PROFILE=1", "EPOCHS=1", f"ARGS=log_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert any("profile" in path.name for path in (tmp_path / "latest").resolve().iterdir())


def test_make_says_what_is_wrong_in_one_line(tmp_path):
    done = make("train", "MODEL=simcrl")
    assert done.returncode != 0
    assert "error: model=simcrl: there is no configs/model/simcrl.yaml; did you mean 'simclr'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_make_help_lists_every_command():
    done = make("help")
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"setup", "train", "test", "test-all", "faults", "lint", "format", "bench", "clean", "help"} <= listed
