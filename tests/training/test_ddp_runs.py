"""The number of devices is not a hyper-parameter of a whole run: started, watched, stopped and resumed on several ranks."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from children import DIGITS, At, add_callback, in_child, kill_self, resume, start
from outcomes import TIMES, assert_same, outcome
from rank_helpers import as_ranks, command, finish, free_port, resume_ranks, seen, start_ranks, watch

from kindred.commands.train import main
from kindred.config import ConfigError, compose
from kindred.runs import train
from kindred.runs.reading.weights import read_checkpoint
from kindred.tracking.metrics_csv import read_metrics
from kindred.training import launch

PLAIN = [
    "encoder._target_=rank_helpers.PlainConvNet"
]  # statistics over ranks are rounded otherwise: test_batch_norm.py
MOCO = [*PLAIN, "model=mocov2", "model.projection_dim=16", "model.queue_size=600"]  # which 2 x 256 does not divide
PHOTOS = [
    *("data=photos", "data.train_size=512", "data.batch_size=128", "model.hidden_dim=32", "encoder.widths=[8,16]"),
    *("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "trainer.log_every_n_steps=1"),
    *("~callbacks.progress", "trainer.enable_progress_bar=false"),
]


def assert_same_experiment(one, other):
    """Two run directories agree: loss curves and similarities to 1e-5, accuracies to the image, weights to 1e-4 relative.

    Linear accuracies to two images: of the same features they are the same to the image (test_probes_on_ranks), but these
    differ in rounding, of which a fit that ends at a tolerance makes as much as that.
    """
    rows, others = (read_metrics(path / "metrics.csv") for path in (one, other))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, its in zip(rows, others, strict=True):
        assert row.keys() == its.keys()
        for name in row.keys() - TIMES:
            difference = 2.5 / 359 if "/linear_top" in name else 0 if "_top" in name else 1e-5
            assert row[name] == pytest.approx(its[name], rel=0, abs=difference), (name, row["step"])
    weights, its = (read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (one, other))
    for name in weights:
        assert (weights[name] - its[name]).double().norm() <= 1e-4 * its[name].double().norm(), name


def stopped_at(directory):
    return read_checkpoint(directory / "checkpoints" / "last.ckpt")["global_step"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """A run on digits, 3 epochs of 4 steps, that two ranks ended undisturbed; batch norm and all."""
    directory = tmp_path_factory.mktemp("two") / "run"
    assert start_ranks(directory) == [0, 0]
    return directory


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """MoCo v2 without batch norm on digits, in one process."""
    directory = tmp_path_factory.mktemp("one") / "run"
    assert start(directory, MOCO) == 0
    return directory


@pytest.mark.slow
def test_the_command_line_on_two_ranks_is_the_run_of_one(tmp_path):
    settings = [*PHOTOS, *MOCO, *watch(tmp_path)]
    two = command("train", *settings, "trainer=ddp_cpu", f"run_dir={tmp_path / 'two'}")
    assert in_child(lambda: main([*settings, f"run_dir={tmp_path / 'one'}"])) == 0
    printed = finish(two)
    assert two.returncode == 0, printed
    assert printed.count("linear probe, last epoch") == 1
    assert len(seen(tmp_path, 1)) == 2 * 512
    assert seen(tmp_path, 2) == seen(tmp_path, 1)
    assert_same_experiment(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_supcon_on_several_ranks_is_the_run_of_one(tmp_path, ranks):
    settings = [*PLAIN, "model=supcon", "model.warmup_epochs=0", *watch(tmp_path)]
    assert start(tmp_path / "one", settings) == 0
    assert start_ranks(tmp_path / "many", settings, count=ranks) == [0] * ranks
    assert seen(tmp_path, ranks) == seen(tmp_path, 1)
    assert_same_experiment(tmp_path / "many", tmp_path / "one")


@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_on_two_ranks_and_resumed_to_the_bit(two_ranks, tmp_path, step):
    run = tmp_path / "run"
    killed = start_ranks(run, prepare=lambda rank: add_callback(At(step, kill_self)))
    assert killed == [-signal.SIGKILL] * 2
    assert resume_ranks(run) == [0, 0]
    assert_same(outcome(run), outcome(two_ranks))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["instdisc", "mocov2", "nnclr", "simclrv2_memory", "supcon"])
def test_killed_on_two_ranks_and_resumed_with_every_method(tmp_path, model):
    settings = [f"model={model}", "model.hidden_dim=32", "model.projection_dim=16"]
    settings += {
        "mocov2": ["model.queue_size=600"],
        "nnclr": ["model.queue_size=600"],
        "simclrv2_memory": ["model.memory_size=600"],
    }.get(model, [])
    assert start_ranks(tmp_path / "whole", settings) == [0, 0]
    run = tmp_path / "run"
    assert start_ranks(run, settings, lambda rank: add_callback(At(7, kill_self))) == [-signal.SIGKILL] * 2
    assert resume_ranks(run) == [0, 0]
    assert_same(outcome(run), outcome(tmp_path / "whole"))


@pytest.mark.slow
def test_going_on_with_another_number_of_ranks_is_the_same_experiment(one_rank, tmp_path):
    fewer, more = tmp_path / "fewer", tmp_path / "more"
    assert start_ranks(fewer, MOCO, prepare=lambda rank: add_callback(At(6, kill_self))) == [-signal.SIGKILL] * 2
    assert resume(fewer, ["trainer.devices=1", "trainer=cpu"]) == 0
    assert_same_experiment(fewer, one_rank)
    assert start(more, MOCO, prepare=lambda: add_callback(At(6, kill_self))) == -signal.SIGKILL
    assert resume_ranks(more) == [0, 0]
    assert_same_experiment(more, one_rank)


@pytest.mark.parametrize("receivers", [{1}, *(pytest.param(r, marks=pytest.mark.slow) for r in ({0}, {0, 1}))])
def test_sigterm_to_any_rank_saves_one_checkpoint_and_ends_all(two_ranks, tmp_path, receivers, capfd):
    run = tmp_path / "run"

    def prepare(rank):
        if rank in receivers:
            add_callback(At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))

    assert start_ranks(run, prepare=prepare) == [143, 143]
    assert stopped_at(run) == 3
    assert capfd.readouterr().err.count(f"make train RESUME={run}") == 1
    assert resume_ranks(run) == [0, 0]
    assert_same(outcome(run), outcome(two_ranks))


@pytest.mark.slow
def test_ctrl_c_ends_all_ranks_as_sigterm_does(two_ranks, tmp_path, capfd):
    run = tmp_path / "run"
    interrupt = At(3, lambda: os.kill(os.getpid(), signal.SIGINT))  # a terminal sends it to every rank
    assert start_ranks(run, prepare=lambda rank: add_callback(interrupt)) == [130, 130]
    assert stopped_at(run) == 3
    assert capfd.readouterr().err.count(f"make train RESUME={run}") == 1
    assert resume_ranks(run) == [0, 0]
    assert_same(outcome(run), outcome(two_ranks))


@pytest.mark.slow
def test_sigterm_during_an_evaluation_on_shards_of_different_length(two_ranks, tmp_path):
    run = tmp_path / "run"

    def prepare(rank):
        if rank == 1:
            add_callback(At(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))  # the epoch's last step

    small = ["data.eval_batch_size=7"]  # so that a rank has one batch more than the other
    assert start_ranks(run, small, prepare) == [143, 143]
    assert stopped_at(run) == 6
    assert resume_ranks(run) == [0, 0]
    assert outcome(run)["rows"] == outcome(two_ranks)["rows"]


@pytest.mark.slow
def test_sigterm_to_the_command_ends_its_ranks_within_seconds(tmp_path):
    run = tmp_path / "run"
    long = command("train", *DIGITS, "trainer=ddp_cpu", "trainer.max_epochs=1000", f"run_dir={run}")
    wait_for_step(run, 2, long)
    sent = time.monotonic()
    os.kill(long.pid, signal.SIGTERM)
    printed = finish(long, 20)
    assert time.monotonic() - sent < 15
    assert long.returncode == 143, printed
    assert printed.count(f"make train RESUME={run}") == 1
    rows = read_metrics(run / "metrics.csv")
    lost = rows[-1]["step"] - stopped_at(run)
    # In the evaluation after an epoch of four steps it ends with the checkpoint before it, of every second step.
    assert lost in (0, 1) or (lost, rows[-1]["step"] % 4) == (2, 0)


def wait_for_step(run, step, process, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        rows = read_metrics(run / "metrics.csv")
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} within {seconds} s: {finish(process, 1)}")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_takes_the_run_down_and_leaves_a_good_checkpoint(two_ranks, tmp_path, rank):
    run = tmp_path / "run"
    settings = [*DIGITS, "trainer=ddp_cpu", f"run_dir={run}", *watch(tmp_path)]
    doomed = command("train", *settings, SIGNAL_AT=f"{rank}:5:{signal.SIGKILL:d}")
    printed = finish(doomed, 60)
    assert doomed.returncode != 0
    assert stopped_at(run) == 4, printed
    assert resume_ranks(run) == [0, 0]
    assert outcome(run)["rows"] == outcome(two_ranks)["rows"]


def torchrun(*arguments, **environment):
    return command(*arguments, module="torch.distributed.run", **environment)


@pytest.mark.slow
def test_torchrun_on_two_nodes_is_one_run(two_ranks, tmp_path):
    node = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    settings = [*DIGITS, "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", f"log_dir={tmp_path}"]
    nodes = [torchrun(*node, "--rdzv-id=two nodes", "-m", "kindred", "train", *settings) for _ in range(2)]
    printed = [finish(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    (run,) = (tmp_path / "digits" / "simclr").iterdir()
    assert run.name.startswith("two-nodes-")
    assert (tmp_path / "latest").resolve() == run
    assert "".join(printed).count("linear probe, last epoch") == 1
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3
    assert outcome(run)["rows"] == outcome(two_ranks)["rows"]


@pytest.mark.slow
def test_torchrun_without_an_id_makes_one_new_name(two_ranks, tmp_path):
    node = ["--nproc-per-node=2", f"--master-port={free_port()}", "-m", "kindred", "train"]
    plain = torchrun(*node, *DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path}")
    printed = finish(plain)
    assert plain.returncode == 0, printed
    (run,) = (tmp_path / "digits" / "simclr").iterdir()
    assert outcome(run)["rows"] == outcome(two_ranks)["rows"]


@pytest.mark.slow
def test_torchrun_restarts_a_dead_rank_in_the_same_run(two_ranks, tmp_path):
    node = [
        "--nproc-per-node=2",
        "--max-restarts=1",
        "--rdzv-backend=c10d",
        "--rdzv-id=again",
        "-m",
        "kindred",
        "train",
    ]
    settings = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path / 'logs'}", *watch(tmp_path)]
    # torch 2.15 lets a restarted gloo rank read the address of the dead one, unless each round has its own store.
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    restarted = torchrun(*node, *settings, SIGNAL_AT=f"1:5:{signal.SIGKILL:d}", **own_store)
    printed = finish(restarted, 180)
    assert restarted.returncode == 0, printed
    (run,) = (tmp_path / "logs" / "digits" / "simclr").iterdir()
    assert len(json.loads((run / "environment.json").read_text())["resumes"]) == 1
    assert outcome(run)["rows"] == outcome(two_ranks)["rows"]


@pytest.mark.slow
def test_a_requeued_job_goes_on_where_it_stopped(two_ranks, tmp_path):
    settings = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path}"]

    def killed(rank):
        add_callback(At(5, kill_self))
        return main(settings)

    assert as_ranks(2, killed, job="job 17") == [-signal.SIGKILL] * 2
    assert as_ranks(2, lambda rank: main(settings), job="job 17") == [0, 0]
    (run,) = (tmp_path / "digits" / "simclr").iterdir()
    assert run.name.startswith("job-17-")
    assert_same(outcome(run), outcome(two_ranks))


@pytest.mark.slow
def test_a_job_may_hold_several_trainings(tmp_path):
    def both(rank):
        short = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path}", "trainer.max_epochs=1"]
        for seed in (0, 1):
            train.train(compose([*short, f"seed={seed}"]))

    assert as_ranks(2, both) == [0, 0]
    runs = sorted((tmp_path / "digits" / "simclr").iterdir())
    assert len(runs) == 2
    assert all((run / "summary.json").exists() for run in runs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batch_size=255"], "data.batch_size is 255.*2 device"),
        (["model=mocov2", "model.queue_size=128"], "model.queue_size is 128"),
        (["trainer.devices=3"], "trainer.devices=3 on trainer.num_nodes=1 make 3 rank.*2 were started"),
        (["trainer=cpu"], "trainer.devices=1 .*2 were started"),
        (["data.nonsense=1"], "data.nonsense: there is no such key"),
    ],
)
def test_impossible_settings_are_one_line_from_one_rank_and_leave_nothing_behind(tmp_path, capfd, overrides, message):
    settings = [*DIGITS, "trainer=ddp_cpu", f"log_dir={tmp_path}", *overrides]
    assert as_ranks(2, lambda rank: main(settings)) == [1, 1]
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "Warning" not in text and text.strip()]
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=255", "data.batch_size is 255"),
        ("trainer.num_nodes=2", "trainer.num_nodes=2, but this process is alone"),
        ("trainer.accelerator=gpu", "trainer.devices=99 with trainer.accelerator=gpu: "),
    ],
)
def test_impossible_settings_are_found_before_ranks_are_launched(tmp_path, capfd, override, message):
    devices = 99 if "gpu" in override else 2
    settings = [*DIGITS, "trainer=ddp_cpu", f"trainer.devices={devices}", f"log_dir={tmp_path}", override]
    # Should a check fail to fail, ddp would launch this pytest once more; ddp_fork does not.
    assert in_child(lambda: main([*settings, "trainer.strategy=ddp_fork"])) == 1
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"trainer\.devices=3 .*machine only has: \[0\]") as error:
        launch.check_devices(compose(["trainer=ddp", "trainer.devices=3", "trainer.precision=32-true"]))
    assert "\n" not in str(error.value)


def test_a_variable_left_over_from_another_run_names_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("KINDRED_RUN_DIR", str(tmp_path / "old"))
    monkeypatch.setenv("KINDRED_RUN_PARENT", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launch.handed_down() is None
    monkeypatch.setenv("KINDRED_RUN_PARENT", str(os.getppid()))
    assert launch.handed_down() == tmp_path / "old"
    monkeypatch.setenv("LOCAL_RANK", "0")  # a run that was started by a process which had trained before
    assert launch.handed_down() is None


def test_a_launched_rank_ends_with_its_launcher(tmp_path):
    """Where it would otherwise wait in a collective, on NCCL for ever."""

    def launcher():
        if child := os.fork():
            (tmp_path / "child").write_text(str(child))
            time.sleep(0.5)
            kill_self()
        os.environ |= {"KINDRED_RUN_DIR": "run", "KINDRED_RUN_PARENT": str(os.getppid()), "LOCAL_RANK": "1"}
        launch.watch_launcher()
        time.sleep(100)

    assert in_child(launcher) == -signal.SIGKILL
    end = time.monotonic() + 10
    while alive((tmp_path / "child").read_text()):
        assert time.monotonic() < end, "the rank lives on"
        time.sleep(0.1)


def alive(pid):
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_is_named_by_slurm_or_torchrun_and_a_shell_is_no_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert launch.job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert launch.job() == "slurm-42"
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert launch.job() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a/b c")
    assert launch.job() == "a-b-c"


def test_sigusr1_in_a_slurm_job_saves_and_asks_for_a_requeue(tmp_path, monkeypatch):
    run, scontrol = tmp_path / "run", tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    signalled = At(3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    assert start(run, prepare=lambda: add_callback(signalled)) == 143
    assert stopped_at(run) == 3
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    assert start(run) == 0  # the very same command, run_dir and all
    assert stopped_at(run) == 12
