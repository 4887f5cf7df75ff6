"""sweep.png: accuracy and geometry of the projections against what a sweep varied."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from kindred.study.sweeps.rows import ACCURACIES, GEOMETRY, Row, by_value, is_numeric, number, published, spread
from kindred.study.sweeps.sweep_file import SweepFile
from kindred.tracking.base_lines import base_lines
from kindred.tracking.figures import PLAIN, save, written

KNN, LINEAR, UNIFORMITY, TOLERANCE, QUIET = "#33658a", "#f26419", "#6a4c93", "#2a9d5c", "#8d99ae"
LINES = ("#33658a", "#f26419", "#2a9d5c", "#6a4c93", "#d1495b", "#8d99ae")
LONG = 100  # characters of a name
# A panel's heading, and the metric with its sign. Uniformity is turned upside down, as Wang & Liu do: higher, more uniform.
PANELS = {
    "accuracy": ("linear_top1", 1),
    "uniformity": ("projector_uniformity", -1),
    "tolerance": ("projector_tolerance", 1),
}


@rc_context(PLAIN)
def draw_sweep(path: Path, sweep: SweepFile, rows: Sequence[Row]) -> None:
    """Of one number and one text that vary, a line for each text; else a column for each parameter.

    Points are means over the seeds (and over what else varies), bars one standard deviation.
    """
    keys = sweep.varied or list(sweep.parameters)
    numeric = [key for key in keys if is_numeric(sweep.parameters[key].get("values", [0]))]
    texts = [key for key in keys if key not in numeric]
    figure = _lines(sweep, rows, *numeric, *texts) if len(numeric) == len(texts) == 1 else _columns(rows, keys)
    good = sum("error" not in row for row in rows)
    figure.axes[0].set_title(written(f"{path.parent.name}: {good} runs", LONG), fontsize=9, loc="left")
    save(figure, path)


def _columns(rows: Sequence[Row], keys: Sequence[str]) -> Figure:
    """Accuracy above; uniformity and tolerance below, whose trade-off is why a temperature matters."""
    figure = Figure(figsize=(1.2 + 4.6 * len(keys), 6.4), layout="constrained")
    grid = figure.subplots(2, len(keys), squeeze=False, sharex="col")
    names = dict.fromkeys(name for row in rows for name in row)
    for column, key in enumerate(keys):
        groups = {values[0]: members for values, members in by_value(rows, [key]).items()}
        above, below = grid[0][column], grid[1][column]
        places = places_of(above, list(groups))
        for (label, name), colour in zip(ACCURACIES.items(), (KNN, LINEAR), strict=True):
            _line(above, places, list(groups.values()), name, color=colour, label=label)
        for base, style in (*((f"{line}/knn_top1", ":") for line in base_lines(names)), ("untrained/knn_top1", "--")):
            values = [row[base] for row in rows if base in row]
            if values:
                label = f"kNN, {base.partition('/')[0]}"
                above.axhline(statistics.mean(values), color=QUIET, linestyle=style, linewidth=1, label=label)
        above.set_ylabel("accuracy, last epoch" if column == 0 else "")
        above.legend(fontsize=8)
        beside = below.twinx()
        _line(below, places, list(groups.values()), GEOMETRY["uniformity"], sign=-1, color=UNIFORMITY)
        _line(beside, places, list(groups.values()), GEOMETRY["tolerance"], color=TOLERANCE)
        below.set_ylabel("uniformity (negated)", color=UNIFORMITY)
        beside.set_ylabel("tolerance", color=TOLERANCE)
        below.set_xlabel(written(key, LONG))
        for axes in (above, below, beside):
            _quiet(axes)
    return figure


def _lines(sweep: SweepFile, rows: Sequence[Row], key: str, text: str) -> Figure:
    """Three panels against the number `key`, a line for each value of `text`; published values in a row below."""
    source, known = published(sweep)
    figure = Figure(figsize=(12.5, 3.9 * (2 if known else 1)), layout="constrained")
    grid = figure.subplots(2 if known else 1, 3, squeeze=False, sharex="all", sharey="none")
    groups = by_value(rows, [text, key])
    for axes, (heading, (metric, sign)) in zip(grid[0], PANELS.items(), strict=True):
        points = {values: spread(members, metric) for values, members in groups.items()}
        lines_at(axes, {values: (sign * mean, deviation) for values, (mean, deviation) in points.items()})
        axes.set_ylabel(f"{heading}, linear" if metric == "linear_top1" else f"{heading} of the projections")
    for axes, heading in zip(grid[1], PANELS, strict=True) if known else ():
        lines_at(axes, {(row[text], row.get(key)): (row[heading], math.nan) for row in known})
        axes.set_ylabel(f"published {heading}")
    grid[0][0].legend(fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel(written(key, LONG))
    if known:
        grid[1][0].set_title(written(source, LONG), fontsize=8, loc="left")
    places_of(grid[0][0], sorted({value for _, value in groups if value is not None}))
    return figure


def lines_at(axes, points: dict[tuple[Any, Any], tuple[float, float]]) -> None:
    """(line, place) -> (mean, deviation); a line whose grid has no such number is drawn across."""
    for name, colour in zip(dict.fromkeys(line for line, _ in points), LINES * 9, strict=False):
        own = {place: value for (line, place), value in points.items() if line == name}
        if None in own:
            mean, deviation = own[None]
            axes.axhline(mean, color=colour, linestyle="--", label=written(name, LONG))
            if not math.isnan(deviation):
                axes.axhspan(mean - deviation, mean + deviation, color=colour, alpha=0.1, linewidth=0)
        else:
            means, deviations = zip(*own.values(), strict=True)
            axes.errorbar(
                list(own),
                means,
                _bars(deviations),
                fmt="o-",
                color=colour,
                label=written(name, LONG),
                markersize=4,
                capsize=3,
            )
    _quiet(axes)


def places_of(axes, values: list) -> list[float]:
    """Where the values are on the x axis: numbers where they belong, texts side by side; sets the axis' scale."""
    if not is_numeric(values):
        axes.set_xticks(range(len(values)), [written(value, LONG) for value in values])
        return [float(place) for place in range(len(values))]
    if min(values) > 0 and max(values) / min(values) >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # the scale's own one writes formulas
    if len(values) <= 12:
        axes.set_xticks(values, [number(value) for value in values])
        axes.minorticks_off()
    return [float(value) for value in values]


def _line(axes, places: list[float], groups: list[list[Row]], name: str, sign: int = 1, **style: Any) -> None:
    """Means joined by a line, with bars of one standard deviation; without bars where there is one seed."""
    means, deviations = zip(*(spread(members, name) for members in groups), strict=True)
    axes.errorbar(
        places, [sign * mean for mean in means], _bars(deviations), fmt="o-", markersize=4, capsize=3, **style
    )


def _bars(deviations: Sequence[float]) -> list[float]:
    return [0.0 if math.isnan(deviation) else deviation for deviation in deviations]


def _quiet(axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines["top"].set_visible(False)
