"""What a sweep says: a line while it runs, sweep.csv, and a table at the end (sweep.png: kindred.study.sweeps.figure)."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from kindred.files import write_atomically
from kindred.study.sweeps.rows import ACCURACIES, GEOMETRY, PUBLISHED, Row, by_value, number, published, setting, spread
from kindred.study.sweeps.sweep_file import SweepFile
from kindred.tracking.sparing import sparing


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


def write_sweep_report(directory: Path, sweep: SweepFile, rows: Sequence[Row]) -> None:
    """sweep.csv, and sweep.png if anything succeeded."""
    columns = dict.fromkeys(["trial", *sweep.parameters, *(key for row in rows for key in row)])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: row["trial"]))
    write_atomically(directory / "sweep.csv", text.getvalue())
    if by_value(rows, []):
        with sparing(directory / "sweep.png"):
            from kindred.study.sweeps.figure import draw_sweep

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
            table.add_row(*(number(row.get(key)) for key in keys), *(number(row.get(column)) for column in PUBLISHED))
        console.print(table)
    for row in rows:
        if "error" in row:
            console.print(
                f"failed: {setting(row, list(sweep.parameters))} ({directory / row['run']}.log)", soft_wrap=True
            )
            console.print(row["error"], markup=False, highlight=False, soft_wrap=True)
    if failed := sum("error" in row for row in rows):
        words = "make sweep ... RETRY=1, or kindred sweep ... --retry"
        console.print(f"{failed} failed; to run them once more, the same command with: {words}", soft_wrap=True)
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
