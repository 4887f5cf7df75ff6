"""benchmarks/labels.py: its table keeps a row of each kind, and the study repeats nothing that is there."""

import importlib
import sys

import pytest
from children import in_child
from rank_helpers import ROOT


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("labels")
    sys.modules.pop("labels", None)


def row(what, labels, seed, accuracy):
    rest = {"val_top1": 0.5, "epochs": 2, "cpu_seconds": 1.5}
    return {"data": "photos", "labels": labels, "seed": seed, "what": what, "test_top1": accuracy, **rest}


def test_a_row_takes_the_place_of_its_like_and_tables_are_of_the_seeds(study, tmp_path):
    path = tmp_path / "labels.csv"
    for accuracy in (0.9, 0.3):
        study.keep(path, row("scratch", 0.1, 0, accuracy))
    study.keep(path, row("scratch", 0.1, 1, 0.5))
    study.keep(path, row("scratch", 1.0, 1, 0.7))
    study.keep(path, row("small-distilled", 1.0, 1, 0.6))
    rows = study.read(path)
    assert len(rows) == 4
    lines = study.table(rows, "photos").splitlines()
    assert lines[:3] == [
        "| photos, n = 2 | 10% | 100% |",
        "|---|---:|---:|",
        "| large, from scratch | 0.400 ± 0.141 | 0.700 |",
    ]
    assert lines[-1] == "| small, distilled from large |  | 0.600 |"
    assert len(lines) == 2 + len(study.WHAT)
    study.draw(rows, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_the_whole_study_on_digits_and_again_without_a_training(study, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["digits", "--seeds", "0", "--labels", "0.3", "--epochs", "1", "--output", "out", "trainer.max_epochs=1"]
    words += ["encoder.widths=[8,16]", f"data.source.root={ROOT / 'data/digits'}"]
    assert in_child(lambda: study.main(words), seconds=280) == 0
    rows = study.read(tmp_path / "out" / "labels.csv")
    assert {each["what"] for each in rows} == set(study.WHAT)
    runs = tmp_path / "logs" / "labels" / "digits" / "seed0"
    assert {path.parent.name for path in runs.glob("labels0.3/*/summary.json")} == set(study.WHAT) - {"probe"}
    trained = {path: path.stat().st_mtime_ns for path in runs.rglob("last.ckpt")}
    assert in_child(lambda: study.main(words)) == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("last.ckpt")} == trained
    assert study.read(tmp_path / "out" / "labels.csv") == rows
    assert "| small, distilled from large |" in capfd.readouterr().out
