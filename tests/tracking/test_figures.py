"""The pictures show what they should: read back from the PNG files and the console."""

import io
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager, rc_context, rcParams
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from kindred.runs.summary import print_summary
from kindred.study.sweeps import figure as sweep_figure
from kindred.tracking import figures
from kindred.tracking.figures import (
    PLAIN,
    RIGHT,
    WRONG,
    draw_confusion,
    draw_curves,
    draw_map,
    draw_neighbours,
    draw_views,
    written,
)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def has(path, colour, at_least=50):
    return (np.abs(pixels(path) - np.round(255 * np.array(colour))).max(axis=1) <= 2).sum() >= at_least


def images(*colours):
    """8x8 images of one colour each, uint8 [N, 3, 8, 8]."""
    return np.stack([np.full((8, 8, 3), colour, dtype=np.uint8).transpose(2, 0, 1) for colour in colours])


def neighbours(path, names):
    draw_neighbours(
        path, images((9, 9, 200)), ["cat"], images((1, 2, 3), (4, 5, 6))[None], [names], np.array([[0.9, 0.8]])
    )


def test_neighbours_of_the_right_and_the_wrong_class_are_marked(tmp_path):
    neighbours(tmp_path / "right.png", ["cat", "cat"])
    neighbours(tmp_path / "wrong.png", ["dog", "dog"])
    neighbours(tmp_path / "both.png", ["cat", "dog"])
    marked = {name: (has(tmp_path / f"{name}.png", to_rgb(RIGHT)), has(tmp_path / f"{name}.png", to_rgb(WRONG)))
              for name in ("right", "wrong", "both")}  # fmt: skip
    assert marked == {"right": (True, False), "wrong": (False, True), "both": (True, True)}
    assert has(tmp_path / "both.png", (9 / 255, 9 / 255, 200 / 255))  # the query itself


def test_views_shows_the_image_and_each_view(tmp_path):
    red, green = images((255, 0, 0)), images((0, 255, 0)) / 255.0
    draw_views(tmp_path / "views.png", red, [green, 1 - green])
    for colour in ((1, 0, 0), (0, 1, 0), (1, 0, 1)):
        assert has(tmp_path / "views.png", colour)


def test_curves_are_drawn_from_what_there_is(tmp_path):
    nan = np.nan
    metrics = {"epoch": np.array([0, 1.0, 2.0]), "train/loss": np.array([nan, 2.0, 1.0])}
    draw_curves(tmp_path / "loss.png", metrics)
    accuracies = {"val/knn_top1": np.array([0.1, nan, 0.5]), "pixels/knn_top1": np.array([0.2, nan, nan])}
    draw_curves(tmp_path / "both.png", metrics | accuracies)
    draw_curves(tmp_path / "more.png", metrics | accuracies | {"pixels/linear_top1": np.array([0.4, nan, nan])})
    assert not np.array_equal(pixels(tmp_path / "more.png"), pixels(tmp_path / "both.png"))
    assert len(np.unique(pixels(tmp_path / "both.png"), axis=0)) > len(np.unique(pixels(tmp_path / "loss.png"), axis=0))


def test_the_closing_table_has_base_lines_first_and_lines_to_copy():
    summary = {
        "pixels/knn_top1": 0.41,
        "untrained/knn_top1": 0.52,
        "pixels/linear_top1": 0.45,
        "untrained/linear_top1": 0.58,
        "val/knn_top1": 0.73,
        "val/knn_top1_best": 0.74,
        "val/linear_top1": 0.65,
        "epochs": 3,
        "seconds": 61.2,
        "images_per_second": 1234.5,
        "skipped_files": 2,
    }
    console = Console(file=io.StringIO(), width=60)
    print_summary(summary, Path("logs/photos/simclr/20260101-000000-abcd"), console)
    text = console.file.getvalue()
    order = [
        text.index(number)
        for number in ("0.410", "0.520", "0.450", "0.580", "0.730", "0.740", "0.650", "61 s", "2 files")
    ]
    assert order == sorted(order)
    assert "make train RESUME=logs/photos/simclr/20260101-000000-abcd EPOCHS=<more>" in text
    assert "test split" not in text
    assert "on test:  make evaluate RUN=logs/photos/simclr/20260101-000000-abcd\n" in text


@pytest.mark.parametrize(
    ("judge", "line"),
    [("val", "on val:   make evaluate RUN='my runs/x'"), (None, "as file:  make export RUN='my runs/x'")],
)
def test_the_closing_line_is_a_command_that_works_for_the_data(judge, line):
    console = Console(file=io.StringIO(), width=60)
    print_summary({}, Path("my runs/x"), console, judge)
    assert console.file.getvalue().splitlines()[-1] == line


def test_the_closing_table_says_when_the_test_split_was_monitored():
    console = Console(file=io.StringIO(), width=80)
    print_summary({"test/knn_top1": 0.9, "test/knn_top1_best": 0.9}, Path("x"), console)
    assert "kNN, last epoch on the test split" in console.file.getvalue()


@pytest.fixture
def only_own_fonts(monkeypatch):
    """As on a machine on which no font is installed."""
    own = [font for font in font_manager.fontManager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    for function in (figures._families, figures._family_with):
        function.cache_clear()
    yield
    for function in (figures._families, figures._family_with):
        function.cache_clear()


NAMES = [r"a_$\frac$", "$x$", "猫", "日本語", "\U0001f98a", "a\nb", "\udce9", "naïve"]


@pytest.mark.filterwarnings("error")
def test_names_of_any_kind_are_drawn_without_a_word(tmp_path, only_own_fonts, capfd):
    matrix = np.eye(len(NAMES), dtype=np.int64)
    draw_confusion(tmp_path / "confusion.png", matrix, NAMES)
    draw_map(tmp_path / "map.png", np.random.default_rng(0).normal(size=(8, 2)), np.arange(8), NAMES)
    grey = images(*[(9, 9, 9)] * len(NAMES))
    pairs = np.stack([grey[:2]] * len(NAMES)), [[name, name] for name in NAMES], np.ones((len(NAMES), 2))
    draw_neighbours(tmp_path / "neighbours.png", grey, NAMES, *pairs)
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "map.png", "neighbours.png"}
    assert capfd.readouterr().err == ""


def test_what_no_font_has_is_escaped_and_the_rest_is_as_it_is(only_own_fonts):
    with rc_context(PLAIN):
        assert [written(name, 20) for name in NAMES] == [
            r"a_$\frac$", "$x$", r"\u732b", r"\u65e5\u672c\u8a9e", r"\U0001f98a", r"a\nb", r"\udce9", "naïve"
        ]  # fmt: skip
        assert written("x" * 20) == "x" * 13 + "…"


def test_no_text_of_any_picture_is_read_as_a_formula(tmp_path, monkeypatch):
    texts = []

    def keep(figure, path):
        save(figure, path)
        texts.extend((path.stem, text.get_text(), text.get_parse_math()) for text in figure.findobj(Text))

    save = figures.save
    monkeypatch.setattr(figures, "save", keep)
    monkeypatch.setattr(sweep_figure, "save", keep)
    draw_confusion(tmp_path / "confusion.png", np.eye(2, dtype=np.int64), ["$x$", "$y"])
    draw_map(tmp_path / "map.png", np.eye(2), np.arange(2), ["$x$", "$y"])
    neighbours(tmp_path / "neighbours.png", ["$x$", "$y"])
    draw_curves(tmp_path / "curves.png", {"epoch": np.arange(2.0), "$x$/knn_top1": np.arange(2.0)})
    parameters = {"model.$loss$": {"values": ["$x$", "$y"]}, "model.t": {"values": [10.0**e for e in range(-14, 0)]}}
    rows = [
        {"trial": 0, "run": "a", "val/linear_top1": 0.5, "model.$loss$": loss, "model.t": t}
        for loss in parameters["model.$loss$"]["values"]
        for t in parameters["model.t"]["values"]
    ]
    for place, varied in enumerate((parameters, {"model.$loss$": parameters["model.$loss$"]})):
        sweep = SimpleNamespace(name="mine", varied=list(varied), parameters=varied)
        sweep_figure.draw_sweep(tmp_path / "$a$" / f"sweep{place}.png", sweep, rows)
    shown = {(stem, text) for stem, text, _ in texts}
    assert {(stem, "$x$") for stem in ("confusion", "map", "curves", "sweep0", "sweep1")} <= {
        (stem, text.partition("/")[0]) for stem, text in shown
    }
    assert {("neighbours", "$x$ 0.90"), ("sweep0", "$a$: 28 runs"), ("sweep1", "model.$loss$")} <= shown
    assert {(stem, text) for stem, text, formula in texts if formula} == set()
    assert not any("mathdefault" in text for _, text in shown)  # of a logarithmic axis with many values


def test_a_font_that_has_the_name_is_used(monkeypatch, tmp_path):
    """An installed family that has the characters comes behind DejaVu Sans, and the name is as it is."""
    for function in (figures._families, figures._family_with):
        function.cache_clear()
    families = {name: path for name, path in figures._families().items() if name != "DejaVu Sans"}
    font = "DejaVu Sans Mono" if "DejaVu Sans Mono" in families else next(iter(families), None)
    if font is None:
        pytest.skip("there is no font but matplotlib's")
    monkeypatch.setattr(figures, "_families", lambda: {"cmr10": font_manager.findfont("cmr10"), font: families[font]})
    with rc_context(PLAIN):
        assert written("ж") == "ж"  # which cmr10 lacks
        assert rcParams["font.family"] == ["DejaVu Sans", font]
    assert font not in rcParams["font.family"]
    figures._family_with.cache_clear()
