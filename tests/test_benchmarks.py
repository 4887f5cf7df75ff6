"""Every benchmark runs in its tiny form; rows, targets and tables are computed as they say."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("losses", "queues", "knn", "loading", "training", "steps", "busy", "scaling", "chunks", "unchanged", "gpu")
SLOW = ("gpu", "unchanged")
LONG = (pytest.mark.slow, pytest.mark.timeout(1200))
MODULES = (
    *SCRIPTS,
    "measure",
    "report",
    "table",
    "trainings",
    "imagenet",
    "time_to_accuracy",
    "rivals",
    "judging",
    "methods",
    "multicrop",
)


@pytest.fixture
def load(monkeypatch):
    """name -> a module of benchmarks/, found as a script there finds it, on one thread, with processes that are forked."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a child forked after a parallel operation would hang
    monkeypatch.setattr(importlib.import_module("measure"), "START_METHOD", "fork")
    yield importlib.import_module
    torch.set_num_threads(before)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", [pytest.param(n, marks=LONG) if n in SLOW else n for n in SCRIPTS])
def test_every_script_measures_and_writes_rows(load, name, tmp_path):
    if name in ("losses", "knn", "scaling", "chunks") and not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    repeats = {
        "training": ["--rounds", "1"],
        "gpu": [],
        "steps": ["--rounds", "1", "--repeats", "2", "--methods", "mocov2"],
        "busy": ["--rounds", "1", "--repeats", "2"],
        "unchanged": ["--repeats", "2", "--before", "."],
    }
    repeats = repeats.get(name, ["--repeats", "2"])
    rows = load(name).main(["--tiny", "--output", str(tmp_path), *repeats])
    assert rows
    for row in rows:
        assert row.what
        assert row.against
        assert row.kindred
        assert all(math.isfinite(value) for value in (*row.kindred, *row.peer, *row.values))
        if row.unit != "exponent":  # of such small sizes an exponent may have any sign
            assert min(*row.kindred, *row.peer, math.inf) > 0, row.what
        assert len(row.values) == (len(row.kindred) if row.peer else 0)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert [row["what"] for row in record["results"]["rows"]] == [row.what for row in rows]
    assert {"command", "date", "processor", "cores", "versions"} < record.keys()
    assert rows[0].what in (tmp_path / f"{name}.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_multicrop_trains_both_for_the_same_time(load, tmp_path, monkeypatch):
    script = load("multicrop")
    monkeypatch.chdir(tmp_path)
    results = script.main(
        ["--tiny", "--models", "simclr", "--epochs", "2", "--repeats", "2", "--output", str(tmp_path)]
    )
    times = results["simclr"]["milliseconds"]
    ratios = sorted(b / a for a, b in zip(times["small"], times["multicrop"], strict=True))
    assert results["simclr"]["ratio"] == pytest.approx(sum(ratios) / 2)  # the median of two
    assert results["simclr"]["epochs"] == script.equal_epochs(2, results["simclr"]["ratio"])
    table = (tmp_path / "multicrop.md").read_text()
    for views, (run,) in results["simclr"]["runs"].items():
        assert run["epochs"] == results["simclr"]["epochs"][views]
        assert run["processor_seconds"] > 0
        assert f"| simclr | {views} |" in table
        assert f"| {run['val/knn_top1']:.3f} | {run['val/linear_top1']:.3f} |" in table
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(("ratio", "epochs"), [(1.0, 15), (1.7, 9), (2.0, 8), (40.0, 1)])
def test_epochs_of_equal_time(load, ratio, epochs):
    assert load("multicrop").equal_epochs(15, ratio) == {"small": 15, "multicrop": epochs}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_time_to_accuracy_goes_on_where_it_stopped_and_draws(load, tmp_path):
    script = load("time_to_accuracy")
    names = ("kindred", "lightly", "plain", "plain_empty")
    given = ["--tiny", "--work", str(tmp_path / "work"), "--output", str(tmp_path), "--contestants", *names]
    assert script.main([*given, "--only", "simclr-kindred-0"]) == []
    (snapshot,) = (tmp_path / "work").glob("tiny/*/simclr-kindred-0/2.pt")
    written = snapshot.stat().st_mtime_ns
    script.main(given)
    assert snapshot.stat().st_mtime_ns == written
    record = json.loads((tmp_path / "time_to_accuracy.json").read_text())
    for method in ("simclr", "mocov2"):
        for name in names:
            (points,) = record["results"]["curves"][method][name].values()
            assert [point["epoch"] for point in points] == [1, 2]
            assert 0 < points[0]["seconds"] < points[1]["seconds"]
            assert all(0 <= point[judged] <= 1 for point in points for judged in ("knn", "linear"))
    assert (tmp_path / "time_to_accuracy.png").read_bytes()[1:4] == b"PNG"
    for method, alike in (("simclr", True), ("mocov2", False)):  # the queue's start is all that differs
        first, second = (
            torch.load(snapshot.parents[1] / f"{method}-{name}-0" / "1.pt", weights_only=True)["encoder"]
            for name in ("plain", "plain_empty")
        )
        assert all(torch.equal(first[key], second[key]) for key in first) == alike


def test_minutes_to_an_accuracy_are_read_off_the_curve(load):
    script = load("time_to_accuracy")
    points = [{"seconds": 60.0 * minute, "knn": value} for minute, value in ((1, 0.3), (3, 0.5), (5, 0.4), (9, 0.6))]
    for accuracy, minutes in ((0.2, 1.0), (0.3, 1.0), (0.4, 2.0), (0.5, 3.0), (0.55, 8.0), (0.6, 9.0), (0.61, None)):
        assert script.minutes_to(points, "knn", accuracy) == (minutes and pytest.approx(minutes))
    slow = [{"seconds": 600.0, "knn": 0.55, "linear": 0.7}]
    ours = [{**point, "linear": point["knn"]} for point in points]
    curves = {"simclr": {"kindred": {"0": ours}, "plain": {"0": slow}}}
    knn, common_knn, linear, common_linear = script.rows_of(curves, 2.5, 10)
    assert (knn.kindred, knn.peer, knn.reached) == ([pytest.approx(8.0)], [10.0], False)
    assert (common_knn.kindred, common_knn.peer, common_knn.reached) == ([pytest.approx(8.0)], [10.0], None)
    assert (linear.reached, linear.values, linear.cells()[5]) == (False, [], "never")
    assert linear.note == "never reached in seed 0: 0.600 of 0.700"
    assert (common_linear.kindred, common_linear.peer) == ([9.0], [10.0])  # 0.6


def test_a_target_that_is_reached_in_one_seed_alone_is_missed(load):
    ours = {"0": [{"seconds": 60.0, "knn": 0.6, "linear": 0.6}], "1": [{"seconds": 60.0, "knn": 0.4, "linear": 0.6}]}
    theirs = {seed: [{"seconds": 600.0, "knn": 0.5, "linear": 0.5}] for seed in "01"}
    rows = load("time_to_accuracy").rows_of({"simclr": {"kindred": ours, "plain": theirs}}, 2.5, 10)
    assert [(row.values, row.reached) for row in rows] == [
        ([10.0], False),
        ([10.0, 10.0], None),
        ([10.0, 10.0], True),
        ([10.0, 10.0], None),
    ]


@pytest.mark.parametrize(
    ("sense", "kindred", "peer", "target", "values", "reached"),
    [
        ("times less", [2.0, 1.0, 4.0], [4.0, 4.0, 4.0], 1.8, [2.0, 4.0, 1.0], True),
        ("times less", [2.0, 1.0, 4.0], [4.0, 4.0, 4.0], 2.1, [2.0, 4.0, 1.0], False),
        ("times more", [6.0, 2.0], [2.0, 2.0], 2.0, [3.0, 1.0], True),
        ("at least", [2.0], [4.0], 0.5, [0.5], True),
        ("at most", [4.0, 8.0], [4.0], 1.4, [1.0, 2.0], False),
        ("more", [5.0, 9.0], [4.0, 4.0], 3.0, [1.0, 5.0], True),
        ("off by", [1.9, 1.5], [2.0], 0.1, [-0.05, -0.25], False),
        ("off by", [2.1], [2.0], 0.1, [0.05], True),
        ("times less", [2.0], [], 1.8, [], None),
        ("times less", [2.0], [2.0], None, [1.0], None),
    ],
)
def test_a_row_compares_turn_by_turn_and_its_median_with_the_target(
    load, sense, kindred, peer, target, values, reached
):
    row = load("report").Row("what", "against", "s", kindred, peer, sense, target)
    assert row.values == pytest.approx(values)
    assert row.reached is reached
    assert len(row.cells()) == len(load("report").COLUMNS)


def test_peak_memory_is_that_of_the_work_alone(load):
    measure = load("measure")
    grown = measure.in_fresh_process(grow_by, 48 * 2**20)
    assert grown == pytest.approx([48] * 3, abs=2.0)


def grow_by(size):
    measure = importlib.import_module("measure")
    np.ones(256 * 2**20, dtype=np.uint8)  # an earlier peak, which must not count
    return [measure.peak_growth(lambda: np.ones(size, dtype=np.uint8).sum()) for _ in range(3)]


def test_contestants_take_turns(load):
    calls = []
    turns = {"a": (2, lambda: calls.append("a")), "b": (1, lambda: calls.append("b"))}
    clock = iter(range(100))
    seconds = load("measure").alternate(turns, 2, lambda: next(clock))
    assert "".join(calls) == "ab" + "aab" * 2
    assert seconds == {"a": [0.5, 0.5], "b": [1.0, 1.0]}


def test_one_table_holds_all_results_and_the_reasons_for_what_was_missed(load, tmp_path):
    report, table = load("report"), load("table")
    rows = [
        report.Row("time", "peer", "s", [1.0], [1.5], "times less", 1.8),
        report.Row("memory", "peer", "MiB", [1.0], [50.0], "times less", 25),
        report.Row("large", "peer", "s", [1.0], [], "times less", 1.8, "needs 31 GiB"),
    ]
    report.save_rows(tmp_path, "losses", rows, ("torch",), "2 threads")
    report.save(tmp_path, "startup", "", {"seconds": [[10.0, 9.0], [10.0, 12.0]]}, ("torch",))
    rates = {"Kindred": [900.0], "lightly SimCLRTransform, PIL": [100.0], "Kornia, slice crop": [300.0]}
    report.save(tmp_path, "views", "", {"32x32, batch 512": rates, "224x224": rates}, ("torch",))
    found = table.write(tmp_path, {"time, against peer": "The products take all of it."})

    reached = {(row.what, row.against): row.reached for row in found}
    assert reached[("views, 32x32, batch 512", "lightly SimCLRTransform, PIL")] is False  # 9x, and 10x are asked for
    assert reached[("views, 224x224", "lightly SimCLRTransform, PIL")] is True
    assert reached[("time", "peer")] is False
    assert reached[("memory", "peer")] is True
    assert reached[("large", "peer")] is None
    assert reached[("from the command to the first training step", "python -c 'import lightning, torchvision'")] is True
    text = (tmp_path / "bench.md").read_text()
    assert "Targets reached: 5, missed: 2." in text
    assert "## time, against peer\n\nThe products take all of it." in text
    assert "Not explained yet" in text.split("## views, 32x32")[1]
    assert "## memory" not in text
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["reached"] for row in written["rows"]] == [row.reached for row in found]
    assert set(written["sources"]) == {"views", "losses", "startup"}


def exact_curves():
    """Curves that follow theory to the letter, but for a constant in the small sizes."""
    curves = {}
    for name, time, memory in (("loss", 2, 0.004), ("queue", 1, 0.001), ("bank", 1, 0.002)):
        sizes = [256 * 4**i for i in range(5)]
        seconds = [[1e-6 * size**time, 3e-6 * size**time, 2e-6 * size**time] for size in sizes]
        curves[name] = {"sizes": sizes, "seconds": seconds, "mib": [[memory * size] * 3 for size in sizes]}
        curves[name]["mib"][0] = [99.0] * 3
    return curves


def test_exponents_are_fitted_to_the_upper_part_of_each_curve(load):
    scaling = load("scaling")
    for name, measured in exact_curves().items():
        for row in scaling.rows_of(name, measured):
            assert row.kindred == pytest.approx([row.peer[0]] * 3)
            assert row.reached


def test_what_imagenet_needs_follows_from_shapes_and_fits(load):
    imagenet = load("imagenet")
    few, many = (imagenet.needs(ranks, exact_curves()) for ranks in (8, 64))
    assert few["gather"] == pytest.approx(2 * 7 / 8 * 2 * 4096 * 128 * 4 / 2**20)
    assert many["gather"] == pytest.approx(2 * 63 / 64 * 2 * 4096 * 128 * 4 / 2**20)
    assert few["loss"] == pytest.approx(0.004 * 4096 + 8)  # and the tile
    assert few["queue"] == many["queue"] == pytest.approx(0.001 * 65_536)
    assert few["bank"] == pytest.approx(0.002 * 1_281_167 / 8 * 2048 / 512)
    assert many["bank"] == pytest.approx(few["bank"] / 8)
    assert few["loss_as_matrix"] == pytest.approx(8192 / 8 * 8192 * 4 / 2**20)
    assert few["loss_share"] == pytest.approx(many["loss_share"])


def test_the_page_gets_its_tables_between_its_marks(load, tmp_path):
    report, imagenet = load("report"), load("imagenet")
    page = tmp_path / "scaling.md"
    page.write_text("before\n<!-- measured -->\nyesterday\n<!-- /measured -->\nafter\n")
    imagenet.write_page(page, exact_curves(), tmp_path)
    assert "Decoding was not measured yet" in page.read_text()
    worker = report.Row("worker", "peer", "images/s/core", [90.0, 100.0, 120.0], [50.0], "times more", 1.5)
    report.save_rows(tmp_path, "loading", [worker], ("torch",))
    imagenet.write_page(page, exact_curves(), tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- measured -->")
    assert text.endswith("<!-- /measured -->\nafter\n")
    assert "yesterday" not in text
    assert "| 1,000 | 80 | 640 | 10.0 |" in text
    assert "| loss, of the global batch | 2.00 (2) | 1.00 (1) |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"scaling\.md has no lines"):
        imagenet.write_page(page, exact_curves(), tmp_path)
