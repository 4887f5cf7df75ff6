"""A trial of judges as a table, in Markdown, on a page, and as a picture."""

import base64
import html
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from kindred.files import write_atomically
from kindred.study.judges import Estimate, Trial, Verdict
from kindred.tracking.figures import PLAIN, QUIET, save, written

HEADINGS = ("judge", "tau", "tau within a method", "costs, points", "costs within a method, points")
COLOURS = ("#33658a", "#f26419", "#2a9d5c", "#6a4c93", "#d1495b", "#b8901f")
ACROSS = 5  # scatter plots in a row


def title(trial: Trial) -> str:
    """What the numbers are of."""
    return (
        f"{trial.data}: judges of {len(trial.methods)} runs, against a linear classifier's accuracy on test "
        f"({trial.truth.min():.3f} to {trial.truth.max():.3f})"
    )


def rows(trial: Trial) -> list[list[str]]:
    """Cells under HEADINGS: the label-free judges, the best first, then what they are held against."""
    return [
        [v.heading, _text(v.tau, 2), _text(v.within, 2), _text(v.regret, 1), _text(v.regret_within, 1)]
        for v in (*trial.verdicts, *trial.labelled)
    ]


def _text(estimate: Estimate, decimals: int) -> str:
    if math.isnan(estimate.value):
        return "-"
    value, low, high = (
        f"{round(number, decimals) + 0.0:.{decimals}f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def markdown(trial: Trial) -> str:
    """Its title and table."""
    lines = [f"**{title(trial)}**", "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows(trial))]) + "\n"


def write_judges(path: Path, trials: Sequence[Trial]) -> list[Path]:
    """Write the tables to `path`, in Markdown, and each trial's picture beside it; returns what was written."""
    parts, pictures = [], []
    for place, trial in enumerate(trials):
        before = sum(other.data == trial.data for other in trials[:place])  # another folder of images
        picture = path.with_name(f"{path.stem}-{trial.data}{before or ''}.png")
        draw_judges(picture, trial)
        pictures.append(picture)
        parts.append(f"![{trial.data}: each judge's rank correlation and cost]({picture.name})\n\n{markdown(trial)}")
    write_atomically(path, "\n".join(parts))
    return [path, *pictures]


def section(trials: Sequence[Trial]) -> str:
    """The part of a comparison's page that shows them."""
    parts = []
    for trial in trials:
        with tempfile.TemporaryDirectory() as folder:
            draw_judges(Path(folder) / "judges.png", trial)
            picture = base64.b64encode((Path(folder) / "judges.png").read_bytes()).decode()
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows(trial))
        parts.append(
            f"<details open><summary>Judges <small>{html.escape(title(trial))}</small></summary>"
            f'<div class="card judges"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            f'<figure><img src="data:image/png;base64,{picture}" alt="judges"></figure></details>'
        )
    return "\n".join(parts)


@rc_context(PLAIN)
def draw_judges(path: Path, trial: Trial) -> None:
    """Tau and cost of each judge with their intervals; below, each judge of features against the accuracy, by method."""
    shown = [*trial.verdicts, *trial.labelled]
    plotted = [v for v in trial.verdicts if "(projector)" not in v.heading]
    down = -(-len(plotted) // ACROSS)
    above, below = 1.2 + 0.26 * len(shown), 2.6 * down
    figure = Figure(figsize=(13, above + below), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=[above, below])
    upper, lower = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    left, right = upper.subplots(1, 2, sharey=True)
    places = np.arange(len(shown))[::-1]
    for axes, heading, kinds in (
        (left, "Kendall's tau with accuracy on test", (("tau", "all runs"), ("within", "within a method"))),
        (
            right,
            "points lost against choosing by labels",
            (("regret", "all runs"), ("regret_within", "within a method")),
        ),
    ):
        for (name, label), colour, shift in zip(kinds, COLOURS, (0.12, -0.12), strict=False):
            _intervals(axes, [getattr(verdict, name) for verdict in shown], places + shift, colour, label)
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.axhline(len(trial.labelled) - 0.5, color=QUIET, linewidth=1, linestyle=":")
        axes.set_xlabel(heading)
        axes.grid(axis="x", alpha=0.25)
    left.set_yticks(places, [verdict.heading for verdict in shown], fontsize=8)
    left.legend(fontsize=8)
    upper.suptitle(written(title(trial), 120), fontsize=10)
    grid = lower.subplots(down, ACROSS, squeeze=False, sharey=True)
    for axes, verdict in zip(grid.flat, plotted, strict=False):
        _scatter(axes, verdict, trial)
    for axes in list(grid.flat)[len(plotted) :]:
        axes.set_axis_off()
    for line in grid:
        line[0].set_ylabel("linear, test")
    grid[0][0].legend(fontsize=7)
    save(figure, path)


def _intervals(axes, estimates: Sequence[Estimate], places: np.ndarray, colour: str, label: str) -> None:
    values, lows, highs = (np.array([getattr(e, part) for e in estimates]) for part in ("value", "low", "high"))
    axes.hlines(places, lows, highs, color=colour, linewidth=1.5)
    axes.plot(values, places, "o", color=colour, markersize=4, label=label)


def _scatter(axes, verdict: Verdict, trial: Trial) -> None:
    """Scores, higher for what the judge likes better, against accuracies."""
    for method, colour in zip(dict.fromkeys(trial.methods), COLOURS * 9, strict=False):
        own = np.array(trial.methods) == method
        axes.plot(verdict.scores[own], trial.truth[own], "o", color=colour, markersize=3, label=written(method))
    axes.set_title(verdict.heading, fontsize=8)
    axes.tick_params(labelsize=7)
