"""Compare runs: a table of what differs in their settings and what they reached, and the same as an interactive page.

    kindred compare "logs/photos/*/*"                        a glob, run directories, or directories of runs
    kindred compare logs --output figures/comparison.html
    kindred compare logs --sort val/knn_top1                 the highest first
    kindred compare wandb:entity/project                     the runs of a W&B project

Runs that differ in nothing but their seeds are one row: mean ± sample standard deviation, n of them. The page opens from
the file system and needs no network.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kindred.commands.command_line import Parser
from kindred.commands.errors import attempt
from kindred.files import write_atomically
from kindred.runs.run import Run
from kindred.study.comparison import Column, Comparison
from kindred.study.comparison_page import page
from kindred.study.groups import as_text, find_runs, flat_config, numbers
from kindred.study.wandb_project import wandb_runs


def read_runs(places: Sequence[str], api: Any = None) -> list[Run]:
    """The runs of all places; those that cannot be read are named on stderr and left out.

    Raises:
        FileNotFoundError, ValueError: a place without a run.
    """
    projects = [place for place in places if _names_a_project(place)]
    runs = find_runs([place for place in places if place not in projects])
    good = [run for run in runs if not _complain(run)]
    good += [run for place in projects for run in wandb_runs(place.removeprefix("wandb:"), api)]
    if not good:
        raise ValueError("there is no run that can be read")
    return good


def _names_a_project(place: str) -> bool:
    return place.startswith("wandb:") or bool(re.fullmatch(r"[\w-]+/[\w.-]+", place) and not Path(place).exists())


def _complain(run: Run) -> bool:
    """Whether `run` cannot be read, which is then said on stderr."""
    try:
        flat_config(run), run.metrics, numbers(run)
    except Exception as error:  # the files of someone else can be wrong in any way
        reason = " ".join(as_text(str(error)).split()) or type(error).__name__
        print(f"left out: {as_text(str(run.path))} cannot be read: {reason}", file=sys.stderr)
        return True
    return False


def print_table(comparison: Comparison, console: Console) -> None:
    """The comparison as one table; on a terminal too narrow for it, accuracies and the rest in two."""
    columns = comparison.columns
    accuracies = [column for column in columns if column.accuracy]
    whole = _table(comparison, columns)
    wide = console.measure(whole, options=console.options.update(width=10_000, max_width=10_000)).maximum
    if not console.is_terminal:
        console.width = max(console.width, wide)  # a file or a pipe has no edge
    if wide <= console.width or not accuracies:
        console.print(whole)
        return
    console.print(_table(comparison, accuracies))
    console.print(_table(comparison, [column for column in columns if not column.accuracy]))


def _table(comparison: Comparison, columns: Sequence[Column]) -> Table:
    table = Table()
    for heading in comparison.headings():
        table.add_column(Text(heading), justify="right" if heading == "n" else "left", overflow="fold")
    for column in columns:
        table.add_column(Text(column.heading), justify="right")
    best = {column: comparison.best(column) for column in columns}
    for group in comparison.groups:
        reached = [Text(c.text(group), style="bold" if group in best[c] else "") for c in columns]
        table.add_row(*map(Text, comparison.cells(group)), *reached)
    return table


def main(arguments: Sequence[str] | None = None, api: Any = None) -> int:
    """The command line; returns the exit status. `api` stands in for `wandb.Api()`."""
    parser = Parser("kindred compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="globs, directories, wandb:entity/project")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="where the page goes")
    parser.add_argument("--sort", metavar="METRIC", help="rows by this metric, the highest first")
    options = parser.read(arguments)

    def work() -> None:
        if options.output.is_dir():
            raise ValueError(f"--output {options.output}: that is a directory; name a file, such as comparison.html")
        comparison = Comparison.of(read_runs(options.runs, api))
        if options.sort is not None:
            comparison.sort(options.sort)
        console = Console()
        print_table(comparison, console)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, page(comparison))
        console.print(Text(f"page: {options.output}"), soft_wrap=True)

    return attempt(work)
