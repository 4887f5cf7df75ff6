"""Killed at any moment and resumed, a run ends as if it had never been stopped: to the bit."""

import json
import os
import random
import re
import resource
import signal

import pytest
import torch
from children import DIGITS, At, add_callback, in_child, kill_self, resume, start
from lightning import Callback
from omegaconf import OmegaConf
from outcomes import assert_same, outcome

from kindred.commands.train import main
from kindred.runs import train
from kindred.runs.writing.resuming import resumed_config
from kindred.tracking.metrics_csv import read_metrics


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run that was never stopped: 3 epochs of 4 steps."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    assert start(directory) == 0
    return directory


def test_the_run_is_long_enough_to_be_interrupted(unbroken):
    found = outcome(unbroken)
    assert found["step"] == 12
    assert [row["step"] for row in found["rows"]] == list(range(13))


@pytest.mark.parametrize(
    "steps", [*(pytest.param([n], marks=pytest.mark.slow) for n in (4, 5)), [3], [2, 6, 7, 8, 9, 10, 11, 12]], ids=str
)
def test_killed_after_a_step(unbroken, tmp_path, steps):
    step = random.choice(steps)
    print(f"killed after step {step}")
    run = tmp_path / "run"
    assert start(run, prepare=lambda: add_callback(At(step, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


@pytest.mark.slow
def test_killed_twice(unbroken, tmp_path):
    run = tmp_path / "run"
    assert start(run, prepare=lambda: add_callback(At(7, kill_self))) == -signal.SIGKILL
    assert resume(run, prepare=lambda: add_callback(At(10, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


@pytest.mark.parametrize(
    ("moment", "replacement"), [("before", 3), ("after", 2), pytest.param("before", 5, marks=pytest.mark.slow)]
)
def test_killed_while_a_checkpoint_is_written(unbroken, tmp_path, moment, replacement):
    run = tmp_path / "run"

    def prepare():
        replace, count = os.replace, 0

        def replace_and_die(source, target):
            nonlocal count
            count += str(target).endswith(".ckpt")
            doomed = str(target).endswith(".ckpt") and count == replacement
            if doomed and moment == "before":
                os.truncate(source, os.path.getsize(source) // 2)  # as if the kill had come in the middle of writing
                kill_self()
            replace(source, target)
            if doomed:
                kill_self()

        os.replace = replace_and_die

    assert start(run, prepare=prepare) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


def test_killed_before_the_first_checkpoint(unbroken, tmp_path):
    run = tmp_path / "run"
    assert start(run, prepare=lambda: add_callback(At(1, kill_self))) == -signal.SIGKILL
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


def test_sigterm_saves_first_and_says_how_to_go_on(unbroken, tmp_path, capfd):
    run = tmp_path / "run"
    terminate = At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert start(run, prepare=lambda: add_callback(terminate)) == 143
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert f"make train RESUME={run}" in capfd.readouterr().err
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


def test_ctrl_c_saves_first_too_and_gives_the_signal_back(unbroken, tmp_path, capfd):
    run = tmp_path / "run"

    def interrupted():
        before = signal.getsignal(signal.SIGINT)
        add_callback(At(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
        status = main([*DIGITS, f"run_dir={run}"])
        assert signal.getsignal(signal.SIGINT) is before
        return status

    assert in_child(interrupted) == 130
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert capfd.readouterr().err == f"stopped by a signal; to go on: make train RESUME={run}\n"
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "went on").touch()

    assert start(tmp_path / "run", prepare=lambda: add_callback(At(3, twice))) == -signal.SIGINT
    assert not (tmp_path / "went on").exists()


@pytest.mark.parametrize("moment", ["check", "build"])
def test_ctrl_c_before_the_run_begins_is_one_line(tmp_path, capfd, moment):
    class Interrupted(Callback):
        def setup(self, trainer, module, stage):
            raise KeyboardInterrupt

    def interrupt(*_):
        raise KeyboardInterrupt

    in_kindred = moment == "check"  # else in Lightning's hands, which ends by sys.exit(1)
    prepare = (lambda: setattr(train, "check", interrupt)) if in_kindred else lambda: add_callback(Interrupted())
    assert start(tmp_path / "run", prepare=prepare) == 130
    assert capfd.readouterr().err == "stopped by a signal before the run began\n"
    assert not (tmp_path / "run").exists()


def test_sigterm_during_an_evaluation_goes_back_to_the_last_checkpoint(unbroken, tmp_path):
    run = tmp_path / "run"
    terminate = At(8, lambda: os.kill(os.getpid(), signal.SIGTERM))  # the epoch's last step: its evaluation is next
    assert start(run, prepare=lambda: add_callback(terminate)) == 143
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


@pytest.mark.parametrize("full", ["checkpoints/last.ckpt", "metrics.csv"])
def test_a_full_disk_ends_the_run_in_one_line_and_leaves_what_was_there(unbroken, tmp_path, capfd, full):
    run = tmp_path / "run"

    def fill():
        size = (run / full).stat().st_size  # the checkpoint is of step 4, as is the last row
        room = size // 2 if full.endswith("ckpt") else size + 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    assert start(run, prepare=lambda: add_callback(At(5, fill))) == 1
    (line,) = capfd.readouterr().err.splitlines()
    disk = f"{run / full}: cannot be written: File too large; the disk at "
    assert line.startswith(f"error: {disk}")
    assert re.search(r"has [\d.]+ GB free\. What was there before is whole", line)
    assert not list(run.rglob("*.tmp"))
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert [row["step"] for row in read_metrics(run / "metrics.csv")][:5] == list(range(5))
    assert resume(run) == 0
    assert_same(outcome(run), outcome(unbroken))


def test_double_precision_is_resumed_in_double_precision(tmp_path):
    settings = ["model=mocov2", "model.queue_size=1024", "trainer.precision=64-true", "trainer.max_epochs=2"]
    assert start(tmp_path / "whole", settings) == 0
    run = tmp_path / "run"
    assert start(run, settings, prepare=lambda: add_callback(At(3, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(tmp_path / "whole"))
    weight = outcome(run)["weights"]["encoder.layers.0.weight"]
    assert not torch.equal(weight, weight.float().double())


@pytest.mark.slow
def test_accumulated_gradients_are_never_half_saved(tmp_path):
    accumulate = ["trainer.accumulate_grad_batches=2", "callbacks.checkpoints.every_n_steps=1"]
    assert start(tmp_path / "whole", accumulate) == 0
    run = tmp_path / "run"
    assert start(run, accumulate, prepare=lambda: add_callback(At(3, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(tmp_path / "whole"))


@pytest.mark.parametrize("began", ["auto", "fsdp"])
def test_another_trainer_brings_its_own_order_in_memory(unbroken, tmp_path, began):
    run = tmp_path / "run"
    run.mkdir()
    config = OmegaConf.load(unbroken / "config.yaml")
    config.trainer.channels_last = began != "fsdp"
    OmegaConf.save(config, run / "config.yaml")
    assert resumed_config(run, []).trainer.channels_last == (began != "fsdp")
    assert resumed_config(run, ["trainer=ddp_cpu"]).trainer.channels_last
    assert not resumed_config(run, ["trainer=fsdp"]).trainer.channels_last
    assert resumed_config(run, ["trainer.channels_last=true", "trainer=fsdp"]).trainer.channels_last  # refused later


def test_a_resume_may_add_epochs_and_nothing_else(unbroken, tmp_path, capfd):
    run = tmp_path / "run"
    assert start(run) == 0
    assert resume(run, ["trainer.max_epochs=4"]) == 0
    assert "trainer.max_epochs 3 -> 4" in capfd.readouterr().out
    assert json.loads((run / "summary.json").read_text())["epochs"] == 4
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == list(range(17))
    for forbidden in (
        "model.temperature=0.3",
        "data.batch_size=64",
        "seed=3",
        "trainer.max_epochs=2",
        "trainer.nonsense=1",
    ):
        assert resume(run, [forbidden]) == 1
        assert forbidden in capfd.readouterr().err
