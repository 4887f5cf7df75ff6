"""A bar in a terminal, lines elsewhere, and no number that depends on either."""

import re
import sys
from types import SimpleNamespace

import torch
from children import start

from kindred.callbacks import progress
from kindred.callbacks.progress import Progress
from kindred.runs.reading.weights import read_checkpoint
from kindred.tracking.metrics_csv import read_metrics

LINE = re.compile(
    r"epoch (\d)/3(?:  loss ([\d.]+))?  kNN ([\d.]+)  linear ([\d.]+)(?:  [\d,]+ images/s  (\d:\d\d:\d\d) left)?\n"
)
BAR = "trainer.enable_progress_bar=true"


def take_stdout_for_a_terminal():
    sys.stdout.isatty = lambda: True


def lines(directory):
    """What the lines should say: epoch, loss, kNN and linear accuracy of each evaluation."""
    rows = [row for row in read_metrics(directory / "metrics.csv") if "val/knn_top1" in row]
    return [
        (f"{row['epoch']:g}", *(f"{row[name]:{form}}" if name in row else "" for name, form in shown.items()))
        for row in rows
        for shown in [{"train/loss": ".4g", "val/knn_top1": ".3f", "val/linear_top1": ".3f"}]
    ]


def test_a_line_an_evaluation_where_there_is_no_terminal(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert start(tmp_path / "run", [BAR]) == 0
    found = LINE.findall(capfd.readouterr().out)
    assert [line[:4] for line in found] == lines(run)
    assert [line[0] for line in found] == ["0", "1", "2", "3"]
    assert found[-1][4] == "0:00:00"


def test_no_bar_where_none_is_wanted_and_none_without_the_callback(run, tmp_path, capfd):
    assert start(tmp_path / "run", prepare=take_stdout_for_a_terminal) == 0
    assert [line[:4] for line in LINE.findall(capfd.readouterr().out)] == lines(run)
    without = ["trainer.max_epochs=1", "~callbacks.progress", BAR]
    assert start(tmp_path / "without", without, prepare=take_stdout_for_a_terminal) == 0
    assert "poch" not in capfd.readouterr().out.partition("kNN on raw pixels")[0]


def test_a_bar_in_a_terminal_of_80_columns(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert start(tmp_path / "run", [BAR], prepare=take_stdout_for_a_terminal) == 0
    drawn = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", capfd.readouterr().out)]
    training = [line for line in drawn if line.startswith("epoch ")]
    assert {line.split()[1] for line in training} == {"1/3", "2/3", "3/3"}
    assert all(len(line) <= 80 for line in drawn if "━" in line)
    loss = f"loss {read_metrics(run / 'metrics.csv')[-1]['train/loss']:.4g}"
    assert re.fullmatch(rf"epoch 3/3  0:00:00 left ━+ {loss}  kNN \d\.\d+  linear \d\.\d+ *", training[-1])
    assert any(line.startswith("evaluation") for line in drawn)
    weights, its = (
        read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (tmp_path / "run", run)
    )
    assert all(torch.equal(weights[name], its[name]) for name in its)


def test_the_time_left_is_that_of_the_whole_run(monkeypatch):
    trainer = SimpleNamespace(global_step=40, num_training_batches=20, accumulate_grad_batches=1, max_epochs=12)
    bar = Progress()
    assert bar.left(trainer) == ""
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    bar.on_train_start(trainer, None)  # goes on after two epochs
    trainer.global_step = 70  # in 30 s one and a half more, and eight and a half are to come
    monkeypatch.setattr(progress.time, "monotonic", lambda: 130.0)
    assert bar.left(trainer) == "0:02:50 left"
