"""The pictures of a run, drawn from arrays and metrics; nothing here knows of Lightning."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager, rc_context, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kindred.files import temporary_name
from kindred.tracking.base_lines import base_lines

RIGHT, WRONG, QUIET = "#2a9d5c", "#d1495b", "#8d99ae"


# Names come from folders and files: a `$` in one is no formula. `written` adds the fonts that a picture's names need.
PLAIN: dict[Any, Any] = {"text.parse_math": False, "font.family": ["DejaVu Sans"]}


def save(figure: Figure, path: Path) -> None:
    """Write a PNG under a temporary name and rename it."""
    FigureCanvasAgg(figure)
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(temporary, format="png", dpi=110)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def written(name: object, length: int = 14) -> str:
    """A name as it can be drawn, cut to `length`: what no installed font has, or nobody could see, is escaped.

    To be called under `rc_context(PLAIN)`, before the text is made: fonts that the name needs are put behind DejaVu Sans.
    """
    name = str(name)
    name = name if len(name) <= length else f"{name[: length - 1]}…"
    families = {character: _family_with(character) for character in name}
    rcParams["font.family"] = list(dict.fromkeys([*rcParams["font.family"], *filter(None, families.values())]))
    return "".join(c if families[c] else c.encode("unicode_escape").decode() for c in name)


@cache
def _family_with(character: str) -> str | None:
    """DejaVu Sans, which comes with matplotlib, or the first installed family that has `character`; None if none has."""
    if character.isprintable():
        for family, path in _families().items():
            if font_manager.get_font(path).get_char_index(ord(character)):
                return family
    return None


@cache
def _families() -> dict[str, str]:
    """Each family's upright font; of those that matplotlib brings, whose codes are often their own, DejaVu Sans alone."""
    own = matplotlib.get_data_path()
    found = {font.name: font.fname for font in font_manager.fontManager.ttflist if font.style == "normal"}
    installed = {name: path for name, path in sorted(found.items()) if not path.startswith(own)}
    return {"DejaVu Sans": font_manager.findfont("DejaVu Sans"), **installed}


def _show(axes, image: np.ndarray) -> None:
    """One image [C, H, W], uint8 or float in [0, 1], without ticks."""
    pixels = image.transpose(1, 2, 0)
    axes.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


@rc_context(PLAIN)
def draw_views(path: Path, images: np.ndarray, views: Sequence[np.ndarray]) -> None:
    """What the augmentation does: a row per image, the original first.

    Args:
        images: uint8 [B, C, H, W].
        views: float [B, C, H, W] in [0, 1] each, in the order of the columns.
    """
    figure = Figure(figsize=(1.1 * (len(views) + 1), 1.1 * len(images) + 0.3), layout="constrained")
    grid = figure.subplots(len(images), len(views) + 1, squeeze=False)
    for row, axes in enumerate(grid):
        for column, picture in enumerate([images[row], *(view[row] for view in views)]):
            _show(axes[column], picture)
            if row == 0:
                axes[column].set_title("image" if column == 0 else f"view {column}", fontsize=9)
    save(figure, path)


@rc_context(PLAIN)
def draw_curves(path: Path, metrics: dict[str, np.ndarray]) -> None:
    """Loss above, accuracies of the held-out images below, over epochs.

    Args:
        metrics: columns of metrics.csv, NaN where a row has no value.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    epoch = metrics["epoch"]
    if "train/loss" in metrics:
        there = ~np.isnan(metrics["train/loss"])
        above.plot(epoch[there], metrics["train/loss"][there], color="#33658a", linewidth=1)
    above.set_ylabel("train/loss")
    colours = {"knn_top1": "#33658a", "linear_top1": "#f26419"}
    without_encoder = base_lines(metrics)
    for name, values in metrics.items():
        line, _, kind = name.partition("/")
        if kind in colours and line not in without_encoder:
            there = ~np.isnan(values)
            below.plot(epoch[there], values[there], "o-", markersize=3, color=colours[kind], label=written(name, 30))
    for line, (kind, style) in product(without_encoder, zip(colours, ("--", ":"), strict=True)):
        if (name := f"{line}/{kind}") in metrics:
            below.axhline(np.nanmax(metrics[name]), color=QUIET, linestyle=style, linewidth=1, label=name)
    if below.lines:
        below.legend(fontsize=8, loc="lower right")
        below.set_ylabel("accuracy")
    else:  # no labels
        there = ~np.isnan(metrics.get("val/uniformity", np.full(len(epoch), np.nan)))
        below.plot(epoch[there], metrics.get("val/uniformity", epoch)[there], "o-", markersize=3, color="#33658a")
        below.set_ylabel("val/uniformity")
    below.set_xlabel("epoch")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@rc_context(PLAIN)
def draw_neighbours(
    path: Path,
    queries: np.ndarray,
    query_names: Sequence[str],
    neighbours: np.ndarray,
    neighbour_names: Sequence[Sequence[str]],
    similarities: np.ndarray,
) -> None:
    """Held-out images with the bank images nearest to them, right and wrong class marked by the frame's colour.

    An image without a label has an empty name, and a frame that says nothing.

    Args:
        queries: uint8 [Q, C, H, W], with their classes.
        neighbours: uint8 [Q, k, C, H, W], nearest first, with their classes and cosine similarities [Q, k].
    """
    count, k = neighbours.shape[:2]
    figure = Figure(figsize=(1.15 * (k + 1), 1.35 * count + 0.3), layout="constrained")
    grid = figure.subplots(count, k + 1, squeeze=False)
    for row, axes in enumerate(grid):
        _show(axes[0], queries[row])
        axes[0].set_xlabel(written(query_names[row]), fontsize=7, fontweight="bold")
        for column in range(k):
            _show(axes[column + 1], neighbours[row, column])
            names = query_names[row], neighbour_names[row][column]
            colour = (RIGHT if names[0] == names[1] else WRONG) if all(names) else QUIET
            label = f"{written(names[1])} {similarities[row, column]:.2f}".strip()
            axes[column + 1].set_xlabel(label, fontsize=6, color=colour)
            for spine in axes[column + 1].spines.values():
                spine.set(color=colour, linewidth=2.5)
    grid[0][0].set_title("query", fontsize=9)
    grid[0][1].set_title("nearest", fontsize=9)
    save(figure, path)


@rc_context(PLAIN)
def draw_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """What each class is taken for: shares of a row's images, up to 20 classes in per cent.

    Args:
        matrix: int64 [C, C]: images of the row's class that were taken for the column's.
        class_names: of the C classes; written out up to 50.
    """
    count = len(class_names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(12.0, 3.0 + 0.38 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if count <= 50:
        names = [written(name, 24) for name in class_names]
        axes.set_xticks(range(count), names, rotation=90, fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    if count <= 20:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    save(figure, path)


@rc_context(PLAIN)
def draw_map(path: Path, points: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Images as points on a plane, coloured by class; up to 50 classes are named where their middle is.

    Args:
        points: float [N, 2]; only what is near what means something, so the axes have no numbers.
        labels: int64 [N] in [0, C).
        class_names: of the C classes.
    """
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*points.T, c=labels, cmap="tab20" if len(class_names) <= 20 else "hsv", s=9, linewidths=0)
    if len(class_names) <= 50:
        for label in np.unique(labels):
            x, y = np.median(points[labels == label], axis=0)
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
            axes.text(x, y, written(class_names[label]), ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    save(figure, path)
