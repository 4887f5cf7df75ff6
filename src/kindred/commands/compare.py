"""Compare runs: a table of what differs in their settings and what they reached, and the same as an interactive page.

    kindred compare "logs/photos/*/*"                        a glob, run directories, or directories of runs
    kindred compare logs --output figures/comparison.html
    kindred compare logs --sort val/knn_top1                 the highest first
    kindred compare logs --judges judges.md                  label-free judges, as Markdown and a picture beside it
    kindred compare logs --claims claims.md                  papers' claims (configs/published/), measured above published
    kindred compare wandb:entity/project                     the runs of a W&B project

Runs that differ in nothing but their seeds are one row: mean ± sample standard deviation over n seeds; runs that repeat a
seed count as one, with their mean. Runs whose data are others are another row, also where only the files changed. The page
opens from the file system and needs no network. Of five runs or more that were evaluated (kindred evaluate), it also says
which label-free judge ranks them as their accuracy on test does (docs/label_free.md).
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kindred.commands.command_line import Parser
from kindred.commands.errors import attempt
from kindred.errors import ConfigError
from kindred.files import write_atomically
from kindred.runs.run import Run
from kindred.study.claims import claims_over
from kindred.study.comparison import Column, Comparison, Setting
from kindred.study.comparison_page import page
from kindred.study.groups import Group, find_runs, is_outdated, numbers
from kindred.study.judges import FEWEST, Trial
from kindred.study.settings import as_text, flat_config
from kindred.study.wandb_project import wandb_runs

ROOM = 24  # columns of a terminal for an accuracy with its deviation, and some of its frame


def read_runs(places: Sequence[str], api: Any = None) -> list[Run]:
    """The runs of all places; what is left out, and why, is said on stderr: runs that cannot be read, or that never reached
    a step, and places without a run.

    Raises:
        ValueError: there is none.
    """
    local: dict[Path, Run] = {}
    remote: list[Run] = []
    without = []
    for place in places:
        try:
            if _names_a_project(place):
                remote += wandb_runs(place.removeprefix("wandb:"), api)
            else:
                local |= {run.path.resolve(): run for run in find_runs([place])}
        except (FileNotFoundError, ValueError) as error:
            without.append(str(error))
    if not local and not remote:
        raise ConfigError("; ".join(without))
    for reason in without:
        print(f"left out: {as_text(reason)}", file=sys.stderr)
    found = [*sorted(local.values(), key=lambda run: run.path), *remote]
    readable = [run for run in found if not _complain(run)]
    good = [run for run in readable if _reached_a_step(run)]
    if count := len(readable) - len(good):
        print(f"left out: {count} run{'s' * (count > 1)} that never reached a step", file=sys.stderr)
    if count := sum(map(is_outdated, good)):
        print(
            f"left out: {count} evaluation{'s' * (count > 1)} of an earlier step than the run's last", file=sys.stderr
        )
    if not good:
        raise ConfigError("there is no run that can be read" if not readable else "no run has reached a step yet")
    return good


def _reached_a_step(run: Run) -> bool:
    return "epochs" in run.summary or bool((run.metrics.get("step", np.zeros(0)) > 0).any())


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
    """The comparison as one table; on a terminal too narrow for it several: accuracies above, the rest below.

    Those have the settings that tell the rows apart in front, or the rows' numbers where these take too much room, and leave
    out what follows from a chosen name, as a method's learning rate does, which is said.
    """
    columns, settings = comparison.columns, comparison.settings
    whole = _table(comparison, comparison.headings(settings), lambda group: comparison.cells(group, settings), columns)
    wide = _width(whole, console)
    if not console.is_terminal:
        console.width = max(console.width, wide)  # a file or a pipe has no edge
    if wide <= console.width:
        console.print(whole)
        return

    telling = [setting for setting in settings if setting.name in comparison.telling]
    headings, cells = comparison.headings(telling), lambda group: comparison.cells(group, telling)
    if _width(_table(comparison, headings, cells, []), console) > console.width - ROOM:
        for row, group in enumerate(comparison.groups, start=1):
            console.print(Text(f"{row}  {comparison.label(group)}"))
        headings, cells = ["row", "n"], lambda group: [str(comparison.groups.index(group) + 1), group.count]
    following = comparison.following()
    more = [setting for setting in settings if setting not in telling and setting.name not in following]
    accuracies, others = [c for c in columns if c.accuracy], [c for c in columns if not c.accuracy]
    for waiting in (accuracies, [*more, *others]):
        while waiting:
            tables = [_table(comparison, headings, cells, waiting[:count]) for count in range(1, len(waiting) + 1)]
            count = sum(_width(table, console) <= console.width for table in tables) or 1
            console.print(tables[count - 1])
            waiting = waiting[count:]
    if left_out := [comparison.names[key] for key in following if key not in comparison.telling]:
        choices = [comparison.names[key] for key in comparison.names if key.startswith("choices.")]
        console.print(Text(f"on the page only, since they follow from {', '.join(choices)}: {', '.join(left_out)}"))


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=10_000, max_width=10_000)).maximum


def _table(
    comparison: Comparison,
    headings: Sequence[str],
    cells: Callable[[Group], Sequence[str]],
    columns: Sequence[Column | Setting],
) -> Table:
    """Columns under `headings` with the `cells` of a group, then `columns`."""
    table = Table()
    for heading in headings:
        table.add_column(Text(heading), justify="right" if heading == "n" else "left", overflow="fold")
    for column in columns:
        setting = isinstance(column, Setting)
        table.add_column(
            Text(column.heading), justify="left" if setting else "right", overflow="fold", no_wrap=not setting
        )
    best = {column: comparison.best(column) for column in columns if isinstance(column, Column)}
    for group in comparison.groups:
        reached = [Text(c.text(group), style="bold" if group in best.get(c, ()) else "") for c in columns]
        table.add_row(*map(Text, cells(group)), *reached)
    return table


def print_judges(trial: Trial, console: Console) -> None:
    """What each judge is worth."""
    from kindred.study.judges_report import HEADINGS, rows, title

    table = Table(*HEADINGS, box=box.SIMPLE_HEAD, pad_edge=False)
    for place, row in enumerate(rows(trial), start=1):
        table.add_row(*map(Text, row), end_section=place == len(trial.verdicts))
    console.print(Text(title(trial)), soft_wrap=True)
    console.print(table)


def _write_judges(path: Path, comparison: Comparison, console: Console) -> None:
    from kindred.study.judges_report import write_judges

    if not comparison.trials:
        raise ConfigError(
            f"--judges {path}: fewer than {FEWEST} of these runs have judges and an accuracy on test; kindred evaluate "
            "--brief gives them one"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in write_judges(path, comparison.trials):
        console.print(Text(f"judges: {file}"), soft_wrap=True)


def _write_claims(path: Path, runs: Sequence[Run], console: Console) -> None:
    from kindred.study.claims_report import write_claims

    if not (claims := claims_over(runs)):
        raise ConfigError(
            f"--claims {path}: these runs compare nothing that a claim in configs/published/ is about: see `where` there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in write_claims(path, claims):
        console.print(Text(f"claims: {file}"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None, api: Any = None) -> int:
    """The command line; returns the exit status. `api` stands in for `wandb.Api()`."""
    parser = Parser("kindred compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="globs, directories, wandb:entity/project")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="where the page goes")
    parser.add_argument("--sort", metavar="METRIC", help="rows by this metric, the highest first")
    parser.add_argument("--judges", type=Path, metavar="FILE.md", help="write their table and picture")
    parser.add_argument("--claims", type=Path, metavar="FILE.md", help="write papers' claims and their pictures")
    options = parser.read(arguments)

    def work() -> None:
        files = {"output": "comparison.html", "judges": "judges.md", "claims": "claims.md"}
        for key, such in files.items():
            if (path := getattr(options, key)) is not None and path.is_dir():
                raise ConfigError(f"--{key} {path}: that is a directory; name a file, such as {such}")
        comparison = Comparison.of(runs := read_runs(options.runs, api))
        if options.sort is not None:
            comparison.sort(options.sort)
        console = Console()
        print_table(comparison, console)
        for trial in comparison.trials:
            print_judges(trial, console)
        if options.judges is not None:
            _write_judges(options.judges, comparison, console)
        if options.claims is not None:
            _write_claims(options.claims, runs, console)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, page(comparison))
        console.print(Text(f"page: {options.output}"), soft_wrap=True)

    return attempt(work)
