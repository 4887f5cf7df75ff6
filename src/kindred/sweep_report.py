"""What a sweep says: a line while it runs, sweep.csv, sweep.png, and a table at the end."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from kindred.metrics import write_atomically
from kindred.sweep_file import SweepFile

ACCURACIES = {"kNN": "knn_top1", "linear": "linear_top1"}
GEOMETRY = {"uniformity": "projector_uniformity", "tolerance": "projector_tolerance"}  # of what tau acts on
KNN, LINEAR, QUIET = "#33658a", "#f26419", "#8d99ae"
Row = dict[str, Any]


class Progress(RichProgress):
    """How many trainings have ended, how many failed, and the best so far; a line for each where there is no terminal."""

    def __init__(self, sweep: SweepFile) -> None:
        columns = (TextColumn(sweep.name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, TextColumn("{task.description}"))
        self.sweep = sweep
        self.bar = self.add_task("", total=None)
        self.told: set[int] | None = None

    def show(self, rows: Sequence[Row], total: int) -> None:
        """Bring it up to date."""
        self.update(self.bar, total=total, completed=len(rows), description=summary_line(rows, self.sweep))
        for row in rows:
            if self.told is not None and row["trial"] not in self.told:
                end = row["error"].splitlines()[-1] if "error" in row else f"{row[self.sweep.metric]:.4f}"
                self.console.print(f"{row['run']}  {setting(row, list(self.sweep.parameters))}  {end}", highlight=False)
        self.told = {row["trial"] for row in rows}


def summary_line(rows: Sequence[Row], sweep: SweepFile) -> str:
    """Such as `best val/knn_top1 0.8140 at temperature=0.2 seed=1; 1 failed`."""
    good, failed = [row for row in rows if "error" not in row], sum("error" in row for row in rows)
    parts = []
    if good:
        best = (max if sweep.goal == "maximize" else min)(good, key=lambda row: row[sweep.metric])
        parts.append(f"best {sweep.metric} {best[sweep.metric]:.4f} at {setting(best, list(sweep.parameters))}")
    return "; ".join([*parts, *([f"{failed} failed"] if failed else [])])


def setting(row: Row, keys: Sequence[str]) -> str:
    """Such as `temperature=0.2 seed=1`."""
    return " ".join(f"{key.rpartition('.')[2]}={_number(row[key])}" for key in keys)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of the metric `name` (without its split) over the rows that have it.

    The split is val or test, whichever the runs were judged on. NaN where there is nothing, or no deviation of one value.
    """
    values = [row[key] for row in rows for key in (f"val/{name}", f"test/{name}") if key in row]
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return (statistics.mean(values) if values else math.nan), deviation


def by_value(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple, list[Row]]:
    """Successful rows by the values of `keys`: numbers by size, texts in the order of the sweep."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    numbers = all(isinstance(v, int | float) for group in groups for v in group)
    return dict(sorted(groups.items())) if numbers else groups


def write_sweep_report(directory: Path, sweep: SweepFile, rows: Sequence[Row]) -> None:
    """sweep.csv, and sweep.png if anything succeeded."""
    columns = dict.fromkeys(["trial", *sweep.parameters, *(key for row in rows for key in row)])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: row["trial"]))
    write_atomically(directory / "sweep.csv", text.getvalue())
    if by_value(rows, sweep.varied):
        draw_sweep(directory / "sweep.png", sweep, rows)


def draw_sweep(path: Path, sweep: SweepFile, rows: Sequence[Row]) -> None:
    """A column per varied parameter: accuracy against it, and below uniformity and tolerance of the projections.

    Points are means over the seeds (and over the other parameters), bars one standard deviation. Uniformity is drawn
    upside down, as Wang & Liu do: the higher, the more uniform.
    """
    from matplotlib.figure import Figure

    from kindred.figures import _save

    keys = sweep.varied or list(sweep.parameters)
    figure = Figure(figsize=(1.2 + 4.6 * len(keys), 6.4), layout="constrained")
    grid = figure.subplots(2, len(keys), squeeze=False, sharex="col")
    for column, key in enumerate(keys):
        groups = {values[0]: members for values, members in by_value(rows, [key]).items()}
        above, below = grid[0][column], grid[1][column]
        places = _places(above, list(groups))
        for (label, name), colour in zip(ACCURACIES.items(), (KNN, LINEAR), strict=True):
            _line(above, places, groups, name, label, colour)
        for base, style in (("pixels/knn_top1", ":"), ("untrained/knn_top1", "--")):
            values = [row[base] for row in rows if base in row]
            if values:
                label = f"kNN, {base.partition('/')[0]}"
                above.axhline(statistics.mean(values), color=QUIET, linestyle=style, linewidth=1, label=label)
        above.set_ylabel("accuracy, last epoch" if column == 0 else "")
        above.legend(fontsize=8)
        beside = below.twinx()
        _line(below, places, groups, GEOMETRY["uniformity"], "uniformity", "#6a4c93", sign=-1)
        _line(beside, places, groups, GEOMETRY["tolerance"], "tolerance", "#2a9d5c")
        below.set_ylabel("uniformity (negated)", color="#6a4c93")
        beside.set_ylabel("tolerance", color="#2a9d5c")
        below.set_xlabel(key)
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.spines["top"].set_visible(False)
        beside.spines["top"].set_visible(False)
    good = sum("error" not in row for row in rows)
    grid[0][0].set_title(f"{path.parent.name}: {good} runs", fontsize=9, loc="left")
    _save(figure, path)


def _places(axes, values: list) -> list[float]:
    """Where the values are on the x axis: numbers where they belong, texts side by side; sets the axis' scale."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        return [float(place) for place in range(len(values))]
    if min(values) > 0 and max(values) / min(values) >= 10:
        axes.set_xscale("log")
    if len(values) <= 12:
        axes.set_xticks(values, [_number(value) for value in values])
        axes.minorticks_off()
    return [float(value) for value in values]


def _line(axes, places, groups, name, label, colour, sign=1) -> None:
    """Means joined by a line, with bars of one standard deviation; without bars where there is one seed."""
    means, deviations = zip(*(spread(members, name) for members in groups.values()), strict=True)
    bars = [0.0 if math.isnan(deviation) else deviation for deviation in deviations]
    axes.errorbar(places, [sign * m for m in means], bars, fmt="o-", color=colour, label=label, markersize=4, capsize=3)


def print_sweep(directory: Path, sweep: SweepFile, rows: Sequence[Row], console: Console | None = None) -> None:
    """The table of means over the seeds, what failed, and where everything is."""
    console = console or Console()
    keys = sweep.varied or list(sweep.parameters)
    names = {**ACCURACIES, **GEOMETRY}
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=str(directory),
        title_justify="left",
        title_style="",
    )
    for heading in (*[key.rpartition(".")[2] for key in keys], "n", *names):
        table.add_column(heading, no_wrap=True)
    table.caption = "last epoch, mean ± standard deviation over n runs; uniformity and tolerance of the projections"
    for values, members in by_value(rows, keys).items():
        cells = []
        for name in names.values():
            mean, deviation = spread(members, name)
            cells.append(
                "" if math.isnan(mean) else f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")
            )
        table.add_row(*map(_number, values), str(len(members)), *cells)
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(
                f"failed: {setting(row, list(sweep.parameters))} ({directory / row['run']}.log)", soft_wrap=True
            )
            console.print(row["error"], markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {directory / 'sweep.png'}, table: {directory / 'sweep.csv'}", soft_wrap=True)
    console.print(f'side by side: make compare RUNS="{directory}"', soft_wrap=True)
