"""A sweep end to end: what runs, what is cut and goes on, what fails, and what is written down."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from children import in_child

from kindred.commands import sweep
from kindred.study.sweeps import trials
from kindred.study.sweeps.reading import read_sweep
from kindred.study.sweeps.rows import by_value, spread
from kindred.study.sweeps.trial_queue import TrialQueue
from kindred.training import launch

ROOT = Path(__file__).parents[3]
FAKE = (sys.executable, str(Path(__file__).parents[2] / "fake_training.py"))


def fork(function):
    """The id of a child that runs `function` and ends with what it returns, whatever happens in it."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = function()
        except BaseException:
            traceback.print_exc()  # pytest shows what a child printed
        finally:
            os._exit(status)
    return pid


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Functions that run a sweep of temperatures and seeds with a stand-in for the training."""
    monkeypatch.setattr(trials, "TRAIN", FAKE)

    class Study:
        directory = tmp_path / "sweeps" / "mine"
        hold = tmp_path / "sweeps" / "hold"

        def write(self, **changes):
            text = {
                "method": "grid",
                "metric": {"name": "val/knn_top1", "goal": "maximize"},
                "parameters": {"model.temperature": {"values": [0.1, 1.0]}, "seed": {"values": [0, 1]}},
            }
            path = tmp_path / "mine.yaml"
            path.write_text(yaml.safe_dump({**text, **changes}, sort_keys=False))
            return str(path)

        def run(self, *options, **changes):
            return sweep.main([self.write(**changes), "--directory", str(self.directory), *options])

        def starts(self):
            path = self.directory.parent / "starts.txt"
            return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

        def rows(self):
            with (self.directory / "sweep.csv").open() as file:
                return list(csv.DictReader(file))

        def wait_for_starts(self, count):
            deadline = time.monotonic() + 60
            while len(self.starts()) < count:
                assert time.monotonic() < deadline, "the trainings did not start"
                time.sleep(0.02)

    study = Study()
    study.hold.parent.mkdir()
    return study


def test_a_grid_runs_once_and_is_written_down(study, capsys):
    assert study.run("--jobs", "2") == 0
    expected = {(tau, seed): 1 - abs(math.log10(tau)) / 10 + seed / 1000 for tau in (0.1, 1.0) for seed in (0, 1)}
    rows = study.rows()
    assert {(float(r["model.temperature"]), int(r["seed"])): float(r["val/knn_top1"]) for r in rows} == expected
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3]
    assert (study.directory / "sweep.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "best val/knn_top1 1.0010 at temperature=1 seed=1" in printed.replace("\n", " ")
    assert "0.1 2 0.901 ± 0.001 0.450 ± 0.000" in " ".join(printed.split())
    assert study.run() == 0  # again: there is nothing left to do
    assert len(study.starts()) == 4


def test_two_grids_are_one_sweep_with_a_line_for_each_text(study):
    """The second has no temperature: its trainings take the model's own."""
    path = Path(
        study.write(parameters={"model.loss": {"values": ["a", "b"]}, "model.temperature": {"values": [0.1, 1.0]}})
    )
    one = yaml.safe_load(path.read_text())
    both = [one, {**one, "parameters": {"model.loss": {"value": "c"}}}]
    for document in both:
        document["command"] = ["python", "-m", "kindred", "train", "seed=0", "${args_no_hyphens}"]
    path.write_text(yaml.safe_dump_all(both, sort_keys=False))
    assert sweep.main([str(path), "--directory", str(study.directory)]) == 0
    rows = study.rows()
    assert [(row["model.loss"], row["model.temperature"]) for row in rows] == [
        ("a", "0.1"),
        ("a", "1.0"),
        ("b", "0.1"),
        ("b", "1.0"),
        ("c", ""),
    ]


def test_a_training_that_fails_is_recorded_and_does_not_stop_the_rest(study, capsys):
    parameters = {"model.temperature": {"values": [99, 1.0]}}
    assert study.run(parameters={**parameters, "seed": {"value": 0}}) == 0
    failed, good = study.rows()
    assert failed["error"] == "many words\nerror: train/loss is not finite"
    assert failed["val/knn_top1"] == ""
    assert float(good["val/knn_top1"]) == 1
    assert "failed: temperature=99 seed=0" in capsys.readouterr().out
    assert study.run(parameters={**parameters, "seed": {"value": 0}}) == 0
    assert len(study.starts()) == 2  # a failure is an answer too
    assert study.run("--retry", parameters={**parameters, "seed": {"value": 0}}) == 0
    assert len(study.starts()) == 3


def test_if_everything_fails_so_does_the_sweep(study):
    only = {"model.temperature": {"value": 99}, "seed": {"value": 0}}
    assert study.run(parameters=only) == 1


OWN = ["python", "-m", "kindred", "train", "+callbacks.mine={_target_: my.Callback}", "${args_no_hyphens}"]


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("val/knn", [], "did you mean 'val/knn_top1'?"),
        ("val/knn_top1", ["data.val_size=0"], "since data.val_size is 0; did you mean 'test/knn_top1'?"),
        ("val/linear_top1", ["~callbacks.linear_probe"], "which the runs of sweep mine will not have"),
    ],
)
def test_a_metric_that_the_runs_will_not_have_is_refused_before_the_first(study, capsys, name, base, message):
    assert study.run(*base, metric={"name": name, "goal": "maximize"}) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"metric.name is '{name}'" in line
    assert message in line
    assert study.starts() == []
    assert not study.directory.exists()


def test_a_metric_that_no_run_has_is_a_failure_with_the_names_that_there_are(study):
    """A callback of one's own could have recorded it."""
    metric = {"name": "val/mine", "goal": "maximize"}
    assert study.run(metric=metric, command=OWN) == 1
    assert "metric.name is val/mine, which summary.json lacks; it has pixels/knn_top1" in study.rows()[0]["error"]


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_another_metric_uses_the_trainings_that_are_there(study, capsys, method):
    values = {"model.temperature": {"min": 0.01, "max": 1.0}, "seed": {"value": 0}}
    changes = {} if method == "grid" else {"method": method, "run_cap": 3, "parameters": values}
    assert study.run(metric={"name": "val/mine", "goal": "maximize"}, command=OWN, **changes) == 1
    count = len(study.starts())
    assert count == (4 if method == "grid" else 3)
    for name, goal in (("val/knn_top1", "maximize"), ("val/projector_tolerance", "minimize")):
        metric = {"name": name, "goal": goal}
        capsys.readouterr()
        assert study.run(metric=metric, command=OWN, **changes) == 0
        assert len(study.starts()) == count
        rows = study.rows()
        assert [int(row["trial"]) for row in rows] == list(range(count))
        assert all("error" not in row and row[name] for row in rows)
        best = (max if goal == "maximize" else min)(float(row[name]) for row in rows)
        assert f"best {name} {best:.4f}" in capsys.readouterr().out.replace("\n", " ")
        queue = TrialQueue(read_sweep(study.write(metric=metric, command=OWN, **changes)), study.directory)
        assert queue.study.best_value == pytest.approx(best)
        assert [trial.number for trial in queue.study.trials] == list(range(count))


def test_a_metric_is_not_changed_under_trainings_that_run(study, capfd):
    study.hold.touch()
    pid = fork(lambda: study.run("--jobs", "2"))
    study.wait_for_starts(2)
    assert study.run(metric={"name": "val/linear_top1", "goal": "maximize"}) == 1
    assert "2 trainings of" in capfd.readouterr().err
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 130
    study.hold.unlink()
    assert study.run(metric={"name": "val/linear_top1", "goal": "maximize"}) == 0  # those that were cut go on
    assert [start[1] for start in study.starts()].count("resume") == 2
    assert len(study.rows()) == 4


def test_a_row_has_the_number_of_its_directory_after_cuts_and_retries_too(study, capsys):
    study.hold.touch()
    parameters = {"model.temperature": {"values": [1.0, 99]}, "seed": {"values": [0, 1]}}
    pid = fork(lambda: study.run("--jobs", "2", parameters=parameters))
    study.wait_for_starts(3)  # the second failed, the first and the third hold
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 130
    study.hold.unlink()
    for retry in ([], ["--retry"]):
        capsys.readouterr()
        assert study.run(*retry, parameters=parameters) == 0
        rows = study.rows()
        assert [(int(row["trial"]), row["run"]) for row in rows] == [(n, f"trials/{n:04}") for n in range(4)]
        assert [row["model.temperature"] for row in rows] == ["1.0", "99", "1.0", "99"]
        printed = capsys.readouterr().out
        assert "2 failed; to run them once more" in printed
        assert "make sweep ... RETRY=1" in printed
    starts = study.starts()
    assert [sum(start[0] == f"{n:04}" for start in starts) for n in range(4)] == [
        2,
        2,
        2,
        2,
    ]  # what was cut, what failed


def test_a_picture_that_cannot_be_drawn_is_left_out(study, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr("kindred.study.sweeps.figure.draw_sweep", fail)
    only = {"model.temperature": {"value": 0.1}, "seed": {"value": 0}}
    assert study.run(parameters=only) == 0
    assert len(study.rows()) == 1
    assert f"left out: {study.directory / 'sweep.png'} (RuntimeError: no room" in capsys.readouterr().err


def test_interrupted_it_stops_its_trainings_and_goes_on_with_them(study, capfd):
    study.hold.touch()
    pid = fork(lambda: study.run("--jobs", "2"))
    study.wait_for_starts(2)
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 130
    assert "the same command goes on" in capfd.readouterr().err
    assert study.rows() == []
    study.hold.unlink()
    assert study.run("--jobs", "2") == 0
    runs = ["0000", "0001", "0002", "0003"]
    assert sorted(start[:2] for start in study.starts()[2:]) == [[r, "resume"] for r in runs[:2]] + [
        [r, "start"] for r in runs[2:]
    ]
    assert len(study.rows()) == 4


def test_killed_in_the_middle_it_repeats_no_finished_training(study):
    """SIGKILL leaves no time to say anything: the next start finds out by the lock that the dead process left."""
    parameters = {"model.temperature": {"values": [0.1, 0.2, 1.0]}, "seed": {"value": 0}}
    pid = fork(lambda: study.run(parameters=parameters))
    study.wait_for_starts(1)
    study.hold.touch()
    deadline = time.monotonic() + 60
    while not any((study.directory / "trials").glob("*/summary.json")):  # one has ended, and now another one holds
        assert time.monotonic() < deadline
        time.sleep(0.02)
    study.wait_for_starts(2)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    before = study.starts()
    finished = {path.parent.name for path in (study.directory / "trials").glob("*/summary.json")}
    study.hold.unlink()
    assert study.run(parameters=parameters) == 0
    assert len(study.rows()) == 3
    again = study.starts()[len(before) :]
    assert finished.isdisjoint({start[0] for start in again})
    assert sorted(start[1] for start in again) == ["resume", "start"]


def test_a_training_that_ended_unseen_is_read_and_not_repeated(study):
    study.directory.mkdir(parents=True)
    run = study.directory / "trials" / "0000"
    arguments = [f"run_dir={run}", "seed=0", "model.temperature=0.1"]
    subprocess.run([*FAKE, *arguments], check=True)
    assert study.run() == 0
    assert [start[0] for start in study.starts()] == ["0000", "0001", "0002", "0003"]
    assert len(study.rows()) == 4


def test_several_processes_share_a_storage(study, tmp_path):
    """Started at the same moment, as the tasks of a job array are: no training is done twice."""
    path, url = study.write(), f"sqlite:///{tmp_path / 'shared.db'}"
    optuna.storages.RDBStorage(url)  # a server has its tables; SQLite's creation is not made for a race
    words = [path, "--directory", str(study.directory), "--storage", url]
    assert [exit_code(pid) for pid in [fork(lambda: sweep.main(words)) for _ in range(3)]] == [0, 0, 0]
    assert sorted((start[2], start[3]) for start in study.starts()) == [(t, s) for t in ("0.1", "1.0") for s in "01"]
    assert study.run("--storage", url) == 0
    assert len(study.rows()) == 4
    assert len(study.starts()) == 4


def test_no_trial_is_given_to_two_processes(study, tmp_path):
    """SQLite locks no rows: two that asked at once were given the same trial, and one died when it told its end."""
    file = read_sweep(study.write(parameters={"seed": {"values": list(range(40))}}))
    TrialQueue(file, tmp_path)

    def ask():
        queue = TrialQueue(file, tmp_path)
        asked = iter(lambda: queue._claim("worker"), None)
        Path(tmp_path / f"{os.getpid()}.txt").write_text(" ".join(str(trial.number) for trial in asked))
        return 0

    assert [exit_code(pid) for pid in [fork(ask) for _ in range(4)]] == [0, 0, 0, 0]
    asked = [number for path in tmp_path.glob("*.txt") for number in path.read_text().split()]
    assert sorted(map(int, asked)) == list(range(40))


def test_random_draws_are_repeatable_and_bayes_learns_where_to_look(study, tmp_path):
    parameters = {
        "model.temperature": {"min": 0.001, "max": 1.0, "distribution": "log_uniform_values"},
        "seed": {"value": 0},
    }
    file = read_sweep(study.write(method="random", run_cap=3, parameters=parameters))
    draws = []
    for name in "ab":
        (tmp_path / name).mkdir()
        queue = TrialQueue(file, tmp_path / name)
        draws.append([trial.system_attrs["fixed_params"] for trial in queue.study.trials])
    assert draws[0] == draws[1]
    assert len(draws[0]) == 3
    assert study.run(method="bayes", run_cap=4, parameters=parameters) == 0
    taus = [float(row["model.temperature"]) for row in study.rows()]
    assert len(set(taus)) == 4
    assert all(0.001 <= tau <= 1 for tau in taus)


def test_another_sweep_is_not_mixed_into_a_directory(study, capsys):
    assert study.run() == 0
    assert study.run(parameters={"model.temperature": {"value": 0.5}, "seed": {"value": 0}}) == 1
    assert "holds another sweep" in capsys.readouterr().err


def test_a_database_that_is_not_there(study, capsys):
    assert study.run("--storage", "sqlite:////nonexistent/folder/study.db") == 1
    assert "STORAGE: the database cannot be used" in capsys.readouterr().err


def test_the_wandb_engine_registers_the_file_and_starts_an_agent(monkeypatch):
    sent, agents = [], []
    wandb = SimpleNamespace(
        sweep=lambda config, project: sent.append((config, project)) or f"sweep-{len(sent)}",
        agent=lambda name, project: agents.append((name, project)),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # the library itself is not to be imported in this process
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert sweep.main(["wang_liu", "model=simclr", "--engine", "wandb"]) == 0
    assert sent == [(config, "mine") for config in read_sweep("wang_liu").with_overrides(["model=simclr"]).for_wandb()]
    assert [config["command"][-3:] for config, _ in sent] == 2 * [
        ["model=simclr", "logger=wandb", "${args_no_hyphens}"]
    ]
    assert agents == [("sweep-1", "mine"), ("sweep-2", "mine")]


def test_the_wandb_engine_without_a_server_is_one_line(monkeypatch, capsys):
    class CommError(Exception):
        pass

    def refuse(config, project):
        raise CommError("Network error (ConnectionError), entering retry loop")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(sweep=refuse, errors=SimpleNamespace(Error=CommError)))
    assert sweep.main(["temperature", "--engine", "wandb"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_means_and_deviations():
    rows = [{"tau": 0.1, "val/a": 1.0}, {"tau": 0.1, "val/a": 3.0}, {"tau": 1, "test/a": 5.0}, {"tau": 1, "error": ""}]
    groups = by_value(rows, ["tau"])
    assert list(groups) == [(0.1,), (1,)]
    assert spread(groups[(0.1,)], "a") == (2.0, pytest.approx(math.sqrt(2)))
    assert spread(groups[(1,)], "a")[0] == 5
    assert math.isnan(spread(groups[(1,)], "a")[1])
    assert math.isnan(spread(rows, "b")[0])


def test_each_training_gets_its_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert trials.shares(1) == [{}]
    pair = {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    assert trials.shares(2) == [{**pair, "CUDA_VISIBLE_DEVICES": "4,6"}, {**pair, "CUDA_VISIBLE_DEVICES": "5,7"}]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in trials.shares(8)] == list("45674567")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert trials.shares(2) == [pair, pair]


def test_a_training_does_not_outlive_its_sweep(monkeypatch):
    """The process that is named is gone already."""
    gone = subprocess.Popen(["true"])
    gone.wait()

    def orphan():
        os.environ[launch.SWEEP_PROCESS] = str(gone.pid)
        launch.watch_launcher()
        time.sleep(30)

    assert in_child(orphan, seconds=20) == -signal.SIGKILL


@pytest.mark.slow
def test_make_sweep_trains(tmp_path):
    """The command that a person types, with two real trainings side by side."""
    small = "encoder.widths=[8,16] model.hidden_dim=32 trainer.max_epochs=1 trainer.log_every_n_steps=1"
    path = tmp_path / "pair.yaml"
    text = {
        "method": "grid",
        "metric": {"name": "val/knn_top1", "goal": "maximize"},
        "parameters": {"model.temperature": {"values": [0.1, 1.0]}},
    }
    path.write_text(yaml.safe_dump(text))
    command = [
        "make",
        "sweep",
        f"SWEEP={path}",
        "MODEL=simclr",
        "DATA=digits",
        "JOBS=2",
        f"ARGS={small} log_dir={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    (directory,) = (tmp_path / "sweeps").iterdir()
    assert directory.name.startswith("pair-simclr-digits-")
    with (directory / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model.temperature"] for row in rows] == ["0.1", "1.0"]
    assert all(0.1 < float(row["val/knn_top1"]) < 1 for row in rows)
    assert [float(row["train/temperature"]) for row in rows] == [0.1, 1.0]
    assert (directory / "sweep.png").exists()


def test_signals_are_whose_they_were_after_it(capsys):
    """A training in the same process would otherwise end by Ctrl-C's way when a cluster asks it to save and stop."""
    before = [signal.getsignal(number) for number in sweep.STOPS]
    assert sweep.main(["temperature", "--jobs", "0"]) == 1
    assert [signal.getsignal(number) for number in sweep.STOPS] == before


def test_killed_between_two_writes_of_the_database_it_forgets_no_training(study, monkeypatch):
    """In the plan, in a claim, and where a trial that was cut is to wait again: each is several writes."""
    storage, create = optuna.storages.RDBStorage, optuna.storages.RDBStorage._create_new_trial
    calls = []

    def die_at(name, number):
        def write(self, *arguments, **named):
            calls.append(name)
            if calls.count(name) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *arguments, **named)

        original = getattr(storage, name)
        monkeypatch.setattr(storage, name, write)

    assert in_child(lambda: die_at("_create_new_trial", 3) or study.run()) == -signal.SIGKILL  # two of four are planned
    assert in_child(lambda: die_at("record_heartbeat", 1) or study.run()) == -signal.SIGKILL  # one runs for nobody
    study.hold.touch()
    pid = fork(study.run)
    study.wait_for_starts(1)
    os.kill(pid, signal.SIGKILL)  # and one for a process that is no more; cut, it does not come to wait again
    assert exit_code(pid) == -signal.SIGKILL
    study.hold.unlink()
    time.sleep(0.3)  # until its training has seen that
    assert in_child(lambda: die_at("_create_new_trial", 1) or study.run()) == -signal.SIGKILL
    assert storage._create_new_trial is create
    assert study.run() == 0
    assert [row["run"] for row in study.rows()] == [f"trials/{number:04}" for number in range(4)]
    assert all(not row.get("error") for row in study.rows())


def test_killed_while_it_gets_another_metric_it_has_the_trainings_still(study, monkeypatch):
    assert study.run() == 0
    other = {"name": "val/linear_top1", "goal": "maximize"}
    judged, count = TrialQueue._judged, 0

    def die_at_the_third(self, trial):
        nonlocal count
        count += 1
        return judged(self, trial) if count < 3 else os.kill(os.getpid(), signal.SIGKILL)

    def killed():
        TrialQueue._judged = die_at_the_third
        return study.run(metric=other)

    assert in_child(killed) == -signal.SIGKILL
    for metric in ({"name": "val/knn_top1", "goal": "maximize"}, other):
        assert study.run(metric=metric) == 0
        assert len(study.rows()) == 4
    assert len(study.starts()) == 4


def test_a_database_that_cannot_be_written_ends_it_in_one_line(study, capsys, monkeypatch):
    def full(*_, **__):
        raise optuna.exceptions.StorageInternalError("wrapped") from OSError("disk I/O error\n[SQL: INSERT ...]")

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", full)
    assert study.run() == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line == (
        "error: the sweep's database cannot be written: disk I/O error. "
        "What was there is whole: the same command goes on"
    )
