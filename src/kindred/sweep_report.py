"""What a sweep says: a line while it runs, sweep.csv, and a table at the end (sweep.png: kindred.sweep_figure)."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from kindred.config import CONFIGS
from kindred.metrics import write_atomically
from kindred.sweep_file import SweepFile

ACCURACIES = {"kNN": "knn_top1", "linear": "linear_top1"}
GEOMETRY = {"uniformity": "projector_uniformity", "tolerance": "projector_tolerance"}  # of what tau acts on
PUBLISHED = ("accuracy", "uniformity", "tolerance")  # columns of configs/published/
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
    return " ".join(f"{key.rpartition('.')[2]}={number(row[key])}" for key in keys if key in row)


def number(value: Any) -> str:
    """A value as a person writes it; nothing for one that is absent."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of the metric `name` (without its split) over the rows that have it.

    The split is val or test, whichever the runs were judged on. NaN where there is nothing, or no deviation of one value.
    """
    values = [row[key] for row in rows for key in (f"val/{name}", f"test/{name}") if key in row]
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return (statistics.mean(values) if values else math.nan), deviation


def by_value(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple, list[Row]]:
    """Successful rows by the values of `keys`, None for one that a row's grid lacks: numbers by size, texts as they come."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    ranks = [_ranks([group[place] for group in groups]) for place in range(len(keys))]
    return dict(sorted(groups.items(), key=lambda item: [rank[v] for rank, v in zip(ranks, item[0], strict=True)]))


def _ranks(values: Sequence[Any]) -> dict[Any, float]:
    """The places of values in an order: numbers by size, texts as they come, and what is absent last."""
    different = list(dict.fromkeys(value for value in values if value is not None))
    if is_numeric(different):
        different.sort()
    return {None: len(different), **{value: place for place, value in enumerate(different)}}


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values are numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def published(sweep: SweepFile) -> tuple[str, list[Row]]:
    """Where published values of this sweep come from, and the values; nothing where none are known."""
    path = CONFIGS / "published" / f"{sweep.name}.yaml"
    if not path.exists():
        return "", []
    text = yaml.safe_load(path.read_text())
    return text["source"], [dict(zip(text["columns"], row, strict=True)) for row in text["rows"]]


def write_sweep_report(directory: Path, sweep: SweepFile, rows: Sequence[Row]) -> None:
    """sweep.csv, and sweep.png if anything succeeded."""
    columns = dict.fromkeys(["trial", *sweep.parameters, *(key for row in rows for key in row)])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: row["trial"]))
    write_atomically(directory / "sweep.csv", text.getvalue())
    if by_value(rows, []):
        from kindred.sweep_figure import draw_sweep

        draw_sweep(directory / "sweep.png", sweep, rows)


def print_sweep(directory: Path, sweep: SweepFile, rows: Sequence[Row], console: Console | None = None) -> None:
    """The table of means over the seeds, published values of the same, what failed, and where everything is."""
    console = console or Console()
    keys = sweep.varied or list(sweep.parameters)
    headings = [key.rpartition(".")[2] for key in keys]
    names = {**ACCURACIES, **GEOMETRY}
    table = _table(str(directory), *headings, "n", *names)
    table.caption = "last epoch, mean ± standard deviation over n runs; uniformity and tolerance of the projections"
    for values, members in by_value(rows, keys).items():
        cells = [_mean_and_deviation(*spread(members, name)) for name in names.values()]
        table.add_row(*map(number, values), str(len(members)), *cells)
    console.print(table)
    source, known = published(sweep)
    if known:
        table = _table(f"published: {source}", *headings, *PUBLISHED)
        for row in known:
            table.add_row(*(number(row.get(key)) for key in keys), *(number(row[column]) for column in PUBLISHED))
        console.print(table)
    for row in rows:
        if "error" in row:
            console.print(
                f"failed: {setting(row, list(sweep.parameters))} ({directory / row['run']}.log)", soft_wrap=True
            )
            console.print(row["error"], markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {directory / 'sweep.png'}, table: {directory / 'sweep.csv'}", soft_wrap=True)
    console.print(f'side by side: make compare RUNS="{directory}"', soft_wrap=True)


def _table(title: str, *headings: str) -> Table:
    return Table(
        *headings,
        title=title,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _mean_and_deviation(mean: float, deviation: float) -> str:
    return "" if math.isnan(mean) else f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")
