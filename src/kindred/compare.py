"""Compare runs: a table of what differs in their settings and what they reached, and the same as an interactive page.

    python -m kindred.compare "logs/photos/*/*"                        a glob, run directories, or directories of runs
    python -m kindred.compare logs --output figures/comparison.html
    python -m kindred.compare logs --sort val/knn_top1                 the highest first
    python -m kindred.compare wandb:entity/project                     the runs of a W&B project

Runs that differ in nothing but their seeds are one row: mean ± sample standard deviation, n of them. The page opens from
the file system and needs no network.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kindred.command_line import attempt
from kindred.comparison_page import page
from kindred.metrics import write_atomically
from kindred.runs import Run
from kindred.study import Group, as_text, find_runs, flat_config, fold_seeds, numbers, short_names
from kindred.wandb_runs import wandb_runs

SPLIT_METRICS = {
    "knn_top1": ("kNN", 3),
    "knn_top1_best": ("kNN best", 3),
    "linear_top1": ("linear", 3),
    "linear_top1_best": ("linear best", 3),
    "uniformity": ("uniformity", 2),
    "tolerance": ("tolerance", 3),
    "effective_rank": ("effective rank", 1),
    "projector_uniformity": ("projector uniformity", 2),
}


@dataclass(frozen=True)
class Column:
    """A metric as a column: its name in the summary, its heading, and the decimals it is shown with."""

    name: str
    heading: str
    decimals: int

    @property
    def accuracy(self) -> bool:
        return "_top1" in self.name

    def text(self, group: Group) -> str:
        """`mean ± std` over the group's runs, the mean alone of one run, nothing if none has the metric."""
        mean, std = group.mean(self.name), group.std(self.name)
        if math.isnan(mean):
            return ""
        return f"{mean:.{self.decimals}f}" + ("" if math.isnan(std) else f" ± {std:.{self.decimals}f}")


COLUMNS = (
    *(Column(f"val/{name}", *shown) for name, shown in SPLIT_METRICS.items()),
    *(Column(f"test/{name}", f"test {shown[0]}", shown[1]) for name, shown in SPLIT_METRICS.items()),
    Column("train/alignment", "alignment", 3),
    Column("evaluation/linear_top1", "evaluated linear", 3),
    Column("seconds", "seconds", 0),
)


@dataclass
class Comparison:
    """What the table and the page show.

    Args:
        names: the keys in which the runs differ -> the headings they get.
        columns: the metrics that any of the runs has.
        groups: the rows; an unfinished run is one of its own.
    """

    names: dict[str, str]
    columns: list[Column]
    groups: list[Group]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Comparison":
        keys, folded = fold_seeds(runs)
        groups = [part for group in folded for part in _unfinished_apart(group)]
        columns = sorted(
            (column for column in COLUMNS if any(group.values(column.name) for group in groups)),
            key=lambda column: not column.accuracy,  # the others after them, in their order
        )
        return cls({key: as_text(name) for key, name in short_names(keys).items()}, columns, groups)

    def sort(self, metric: str) -> None:
        """Rows by the mean of `metric`, a name of the summary or a heading: the highest first, those without it last."""
        name = next((column.name for column in self.columns if column.heading == metric), metric)
        known = sorted({key for group in self.groups for reached in group.numbers for key in reached})
        if name not in known:
            raise ValueError(f"--sort {metric}: no run has it; they have {', '.join(known)}")
        self.groups.sort(key=lambda group: -group.mean(name) if group.values(name) else math.inf)

    def headings(self) -> list[str]:
        """Of the columns before the metrics."""
        state = ["state"] if any(map(self.state, self.groups)) else []
        return [*(self.names.values() or ["run"]), *state, "n"]

    def cells(self, group: Group) -> list[str]:
        """Of the columns before the metrics: settings, or the directories' names if all are the same; state; n."""
        named = [as_text(group.settings[key]) if key in group.settings else "" for key in self.names]
        state = [self.state(group)] if "state" in self.headings() else []
        return [*(named or [", ".join(as_text(run.path.name) for run in group.runs)]), *state, str(len(group.runs))]

    @staticmethod
    def state(group: Group) -> str:
        """`unfinished, epoch 7` of a run that has not come to its end, or nothing."""
        run = group.runs[0]
        return "" if _finished(run) else f"unfinished, epoch {run.summary.get('epoch', 0):.3g}"

    def label(self, group: Group) -> str:
        """The group in a few words, for a legend: `simclr, temperature 0.1`."""
        named = [
            as_text(value) if key.startswith("choices.") else f"{self.names[key]} {as_text(value)}"
            for key, value in group.settings.items()
            if key in self._telling
        ]
        label = ", ".join(named) or ", ".join(as_text(run.path.name) for run in group.runs)
        return f"{label} (unfinished)" if self.state(group) else label

    @cached_property
    def _telling(self) -> list[str]:
        """Keys that tell the groups apart, the first ones that do; a learning rate that follows from others is not said."""
        keys, apart = [], 1
        for key in self.names:
            count = len({tuple(as_text(group.settings.get(k)) for k in [*keys, key]) for group in self.groups})
            keys, apart = ([*keys, key], count) if count > apart else (keys, apart)
        return keys

    def best(self, column: Column) -> list[Group]:
        """The groups with the highest accuracy; none if there is nothing to compare."""
        means = [group.mean(column.name) for group in self.groups if group.values(column.name)]
        if not column.accuracy or len(means) < 2:
            return []
        return [group for group in self.groups if group.mean(column.name) == max(means)]


def _unfinished_apart(group: Group) -> list[Group]:
    """The finished runs of a group, and each unfinished one alone: its last value is not theirs."""
    finished = [run for run in group.runs if _finished(run)]
    rest = [Group(group.settings, [run]) for run in group.runs if not _finished(run)]
    return [Group(group.settings, finished), *rest] if finished else rest


def _finished(run: Run) -> bool:
    return "epochs" in run.summary  # only the end of a run writes that


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
    parser = argparse.ArgumentParser(
        prog="python -m kindred.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="globs, directories, wandb:entity/project")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="where the page goes")
    parser.add_argument("--sort", metavar="METRIC", help="rows by this metric, the highest first")
    options = parser.parse_args(arguments)

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


if __name__ == "__main__":
    sys.exit(main())
