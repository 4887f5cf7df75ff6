"""A sweep is killed around and within the writes of its database: no training is forgotten, and none is done twice."""

import csv
import os
import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from children import in_child
from faulty import die_of_limit, limit_files, one_line

from kindred.commands import sweep
from kindred.study.sweeps import trials

FAKE = (sys.executable, str(Path(__file__).parents[1] / "fake_training.py"))
WRITES = (
    *("create_new_study", "_create_new_trial", "set_study_user_attr", "set_trial_user_attr", "_set_trial_param"),
    *("set_trial_state_values", "record_heartbeat", "delete_study"),
)
GRID = {"model.temperature": {"values": [0.1, 1.0]}, "seed": {"values": [0, 1]}}
BAYES = {"model.temperature": {"min": 0.01, "max": 1.0}, "seed": {"value": 0}}
SWEEPS = {
    "grid": {"method": "grid", "parameters": GRID},
    "random": {"method": "random", "run_cap": 4, "parameters": BAYES},
    "bayes": {"method": "bayes", "run_cap": 4, "parameters": BAYES},
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(trials, "TRAIN", FAKE)


def run_sweep(folder, kind, metric="val/knn_top1", prepare=lambda: None):
    """The exit status of a sweep of four trainings below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    goal = {"metric": {"name": metric, "goal": "maximize"}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(SWEEPS[kind] | goal, sort_keys=False))

    def body():
        prepare()
        return sweep.main([str(folder / "mine.yaml"), "--directory", str(folder / "sweeps" / "mine")])

    status = in_child(body)
    time.sleep(0.3 if status else 0)  # until a training that was left alone has ended: a real one watches its sweep
    return status


def at_write(number, action):
    """Have `action` called before the `number`-th write of the database."""
    written = 0

    def counted(method):
        def write(*arguments, **named):
            nonlocal written
            written += 1
            if written == number:
                action()
            return method(*arguments, **named)

        return write

    for name in WRITES:
        setattr(optuna.storages.RDBStorage, name, counted(getattr(optuna.storages.RDBStorage, name)))


def found(folder):
    """What the sweep's table says of each training but for its place: parameters and value."""
    with (folder / "sweeps" / "mine" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(not row.get("error") for row in rows)
    return sorted((float(row["model.temperature"]), int(row["seed"]), float(row["val/knn_top1"])) for row in rows)


def assert_whole(folder, kind, whole):
    """All four trainings, each begun once."""
    results = found(folder)
    if kind == "bayes":  # what is drawn depends on what has ended
        assert len(results) == 4
    else:
        assert results == found(whole)
    starts = [line.split() for line in (folder / "sweeps" / "starts.txt").read_text().splitlines()]
    begun = [start[0] for start in starts if start[1] == "start"]
    assert len(begun) == len(set(begun)) == 4


@pytest.mark.parametrize("kind", SWEEPS)
def test_killed_at_a_write_of_the_database(ledger, chance, tmp_path, kind):
    whole = tmp_path / "whole"
    assert run_sweep(whole, kind) == 0
    count = 30 + 10 * (kind == "grid")
    for attempt in range(4):
        folder, kills = tmp_path / str(attempt), 0
        with ledger.meets() as met:
            for _ in range(2):
                number, deadly = chance.randint(1, count), chance.random() < 0.5
                kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
                size = chance.randint(0, 150_000)
                action = (lambda s=size: (die_of_limit(True), limit_files(s))) if deadly else kill
                status = run_sweep(folder, kind, prepare=lambda n=number, a=action: at_write(n, a))
                assert status in (0, -signal.SIGKILL, -signal.SIGXFSZ)
                print(f"{kind}: write {number}, {'a byte below ' + str(size) if deadly else 'before it'}: {status}")
                if status:
                    kills += 1
                    where = "at a random byte of" if deadly else "between two writes of"
                    met.append(f"killed {where} a sweep's database")
            assert run_sweep(folder, kind) == 0
            assert_whole(folder, kind, whole)


def test_the_disk_is_full_while_a_database_is_written(ledger, chance, tmp_path, capfd):
    whole = tmp_path / "whole"
    assert run_sweep(whole, "grid") == 0
    for attempt in range(3):
        folder, number = tmp_path / str(attempt), chance.randint(1, 40)
        with ledger.meets("disk full while a sweep's database is written"):
            capfd.readouterr()
            status = run_sweep(folder, "grid", prepare=lambda n=number: at_write(n, lambda: limit_files(4096)))
            assert status == 1
            said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("left out: ")]
            assert "database cannot be" in one_line("\n".join(said))
            assert run_sweep(folder, "grid") == 0
            assert_whole(folder, "grid", whole)


def test_killed_while_another_metric_is_judged_by(ledger, chance, tmp_path):
    """The study is written anew then."""
    whole = tmp_path / "whole"
    assert run_sweep(whole, "grid") == 0
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        assert run_sweep(folder, "grid") == 0
        number = chance.randint(2, 8)
        with ledger.meets("killed while a sweep gets another metric"):
            killed = run_sweep(
                folder,
                "grid",
                "val/linear_top1",
                lambda n=number: at_write(n, lambda: os.kill(os.getpid(), signal.SIGKILL)),
            )
            print(f"write {number}: {killed}")
            assert killed == -signal.SIGKILL
            assert run_sweep(folder, "grid", "val/linear_top1") == 0
            assert_whole(folder, "grid", whole)
