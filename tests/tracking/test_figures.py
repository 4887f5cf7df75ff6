"""The pictures show what they should: read back from the PNG files and the console."""

import io
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from rich.console import Console

from kindred.runs.summary import print_summary
from kindred.tracking.figures import RIGHT, WRONG, draw_curves, draw_neighbours, draw_views


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


def test_the_closing_table_says_when_the_test_split_was_monitored():
    console = Console(file=io.StringIO(), width=80)
    print_summary({"test/knn_top1": 0.9, "test/knn_top1_best": 0.9}, Path("x"), console)
    assert "kNN, last epoch on the test split" in console.file.getvalue()
