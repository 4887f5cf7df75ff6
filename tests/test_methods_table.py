"""benchmarks/methods.py: a table of any models that is written after each run and forgets none; cifar10.sh is one."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from children import DIGITS, At, add_callback, in_child, kill_self

from kindred.commands import evaluate, train
from kindred.tracking.metrics_csv import read_metrics

ROOT = Path(__file__).parents[1]
SETTINGS = [word for word in DIGITS if not word.startswith(("data=", "trainer.max_epochs="))]


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("methods")
    for name in ("methods", "report"):
        sys.modules.pop(name, None)


@pytest.fixture
def commands(monkeypatch, methods):
    """The commands that are run, each in a forked child; the training whose number is in `killed` dies at its third step."""
    given, killed = [], []

    def kindred(*words):
        given.append(words)
        kill = len(given) in killed
        main = {"train": train.main, "evaluate": evaluate.main}[words[0]]

        def body():
            if kill:
                add_callback(At(3, kill_self))
            return main(words[1:])

        if status := in_child(body):
            raise subprocess.CalledProcessError(status, words)

    monkeypatch.setattr(methods, "kindred", kindred)
    return given, killed


def test_it_is_written_after_each_run_and_goes_on_where_it_was_cut(methods, commands, tmp_path):
    given, killed = commands
    where = ["--output", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    words = ["--data", "digits", "--seeds", "0", *where, *SETTINGS, "trainer.max_epochs=2"]
    killed.append(2)
    with pytest.raises(subprocess.CalledProcessError):
        methods.main(["--models", "supcon", "instdisc", *words])
    record = json.loads((tmp_path / "results" / "digits.json").read_text())
    assert list(record["results"]) == ["supcon"]

    methods.main(["--models", "supcon", "instdisc", *words])
    assert [word for command in given[2:] for word in command if word.startswith(("model=", "resume="))] == [
        f"resume={next((tmp_path / 'work' / 'digits').glob('instdisc-0-*/'))}"
    ]
    record = json.loads((tmp_path / "results" / "digits.json").read_text())
    for model in ("supcon", "instdisc"):
        (run,) = record["results"][model]
        (directory,) = (tmp_path / "work" / "digits").glob(f"{model}-0-*/")
        last = read_metrics(directory / "metrics.csv")[-1]
        assert run["val/knn_top1"] == pytest.approx(last["val/knn_top1"])
        assert f"| {run['val/linear_top1']:.3f} | 2 | 1 |" in (tmp_path / "results" / "digits.md").read_text()
        assert run["command"].startswith(f"kindred train model={model} data=digits seed=0 ")

    before = len(given)
    methods.main(["--models", "supcon", *words])
    assert len(given) == before
    assert "MODEL=instdisc" in (tmp_path / "results" / "digits.md").read_text()


def test_a_row_says_the_settings_of_its_own_runs(methods):
    results = {
        "simclr": [{"epochs": 3, "command_seconds": 8.0, "val/knn_top1": 0.25}],
        "supcon": [
            {
                "epochs": 2,
                "command": "kindred train model=supcon data=digits seed=1 data.batch_size=64 'a.b=[1, 2]'",
                "command_seconds": seconds,
                "val/knn_top1": value,
                "val/linear_top1": 0.5,
            }
            for seconds, value in ((10.0, 0.5), (12.0, 0.7))
        ],
    }
    options = SimpleNamespace(evaluate=False, data="digits")
    first, second = methods.table(results, options, "val").splitlines()[2:]
    assert first == "| `make train MODEL=simclr DATA=digits` |  | 0.250 |  |  | 3 | 1 | 8 |"
    typed = "make train MODEL=supcon DATA=digits ARGS='data.batch_size=64 a.b=[1, 2]'"
    assert second == f"| `{typed}` |  | 0.600 ± 0.141 |  | 0.500 ± 0.000 | 2 | 2 | 11 |"


def test_runs_of_other_seeds_stay_and_those_of_other_settings_do_not(methods):
    commands = [f"kindred train model=simclr data=digits seed={seed} a=1" for seed in (0, 1)]
    runs = [{"command": command} for command in (*commands, commands[0].replace("a=1", "a=2"))]
    found = methods.with_other_seeds("kindred train model=simclr data=digits seed=2 a=1", [*runs, {"epochs": 3}])
    assert list(found) == commands


def test_runs_of_a_recipe_that_has_changed_do_not_stay(methods):
    words = ["model=simclr", "data=digits", "seed=3"]
    settings = methods.digest(words)
    assert settings == methods.digest([*words[:2], "seed=4"])
    assert settings != methods.digest([*words, "model.temperature=0.3"])
    runs = [{"command": "kindred train seed=0", "settings": settings}, {"command": "kindred train seed=1"}]
    runs.append({"command": "kindred train seed=2", "settings": "other"})
    found = methods.with_other_seeds("kindred train seed=3", runs, settings)
    assert [run["command"] for run in found.values()] == ["kindred train seed=0", "kindred train seed=1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_settings_are_another_run_and_test_images_judge_where_that_is_asked(methods, commands, tmp_path):
    given, _ = commands
    where = ["--output", str(tmp_path), "--work", str(tmp_path / "work"), "--name", "judged"]
    words = ["--data", "digits", "--models", "simclr", "--evaluate", *where, *SETTINGS, "~callbacks.linear_probe"]
    methods.main([*words, "trainer.max_epochs=1", "--seeds", "0"])
    results = methods.main([*words, "trainer.max_epochs=2", "--seeds", "0", "1"])
    assert [command[0] for command in given] == ["train", "evaluate"] * 3
    assert [run["epochs"] for run in results["simclr"]] == [2, 2]
    judged = [
        json.loads(path.read_text())["test/linear_top1"] for path in (tmp_path / "work").glob("*/*/evaluation.json")
    ]
    runs = [run["test/linear_top1"] for run in results["simclr"]]
    assert set(runs) < set(judged)
    assert f"| {methods.mean_and_deviation(runs)} | 2 | 2 |" in (tmp_path / "judged.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cifar_10_table_is_one_command_that_goes_on(methods, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    images = importlib.import_module("judging").tiny_images(tmp_path / "images")
    small = ["data.batch_size=8", "encoder.widths=[4,8]", "model.hidden_dim=8", "trainer.max_epochs=1"]
    small += [f"data.source.root={images}", "trainer.check_val_every_n_epoch=1", "callbacks.knn.k=2"]
    command = ["bash", "benchmarks/cifar10.sh", *small, "--models", "simclr", "--seeds", "0"]
    command += ["--output", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    environment = os.environ | {"PYTHON": sys.executable}
    seconds = []
    for _ in range(2):
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        written = json.loads((tmp_path / "results" / "cifar10.json").read_text())
        (run,) = written["results"]["simclr"]
        seconds.append(run["command_seconds"])
    assert seconds[0] == seconds[1]
    assert 0 <= run["test/knn_top1"] <= 1
    assert "trained" in (tmp_path / "results" / "cifar10.md").read_text()
