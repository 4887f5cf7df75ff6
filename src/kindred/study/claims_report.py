"""Claims as tables, in Markdown, and as pictures: what was measured above, what was published below."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from kindred.files import write_atomically
from kindred.study.claims import EVALUATED, Claim
from kindred.study.sweeps.figure import lines_at, places_of
from kindred.study.sweeps.rows import is_numeric, number
from kindred.tracking.figures import PLAIN, QUIET, save, written

WIDE = 240  # characters of a title, in several lines


def title(claim: Claim) -> str:
    """What the measured numbers are of."""
    judged = any(column in EVALUATED for column in claim.columns)
    return "linear classifier on test images" if judged else f"linear probe, {claim.data}, val images, last epoch"


def rows(claim: Claim) -> list[list[str]]:
    """Cells: the settings; mean ± sample standard deviation over seeds; n; the published value."""
    return [
        [*map(as_word, place), *_measured(claim.measured.get(place, [])), _accuracy(claim.published.get(place))]
        for place in _ordered(claim)
    ]


def markdown(claim: Claim) -> str:
    """Its sentence, picture and table."""
    head = [*map(heading, claim.columns), title(claim), "n", "published"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows(claim))]
    source = [f"Published: {claim.source}.", ""] if claim.published else []
    picture = f"![{claim.claim}: measured, above published]({picture_name(claim)})"
    return "\n".join([f"**{claim.claim}** ({claim.data})", "", picture, "", *source, *lines]) + "\n"


def write_claims(path: Path, claims: Sequence[Claim]) -> list[Path]:
    """Write the tables to `path`, in Markdown, and each claim's picture beside it; returns what was written."""
    pictures = [path.with_name(picture_name(claim)) for claim in claims]
    for picture, claim in zip(pictures, claims, strict=True):
        draw_claim(picture, claim)
    write_atomically(path, "\n".join(map(markdown, claims)))
    return [path, *pictures]


@rc_context(PLAIN)
def draw_claim(path: Path, claim: Claim) -> None:
    """A line for each value of the first of two settings, along the other: measured above, published below."""
    below = bool(claim.published)
    figure = Figure(figsize=(5.6, 5.6 if below else 3.2), layout="constrained")
    panels = figure.subplots(1 + below, 1, squeeze=False, sharex=True)[:, 0]
    along = list(dict.fromkeys(place[-1] for place in _ordered(claim)))
    numeric = is_numeric(along)
    places = dict(zip(along, places_of(panels[-1], along if numeric else [*map(as_word, along)]), strict=True))
    measured = {place: (statistics.mean(v), _deviation(v)) for place, v in claim.measured.items()}
    published = {place: (value, math.nan) for place, value in claim.published.items()}
    for axes, points in zip(panels, (measured, published), strict=False):
        shown = [place for place in _ordered(claim) if place in points]
        lines_at(axes, {(_line(claim, place), places[place[-1]]): points[place] for place in shown})
    base = [value for values in claim.base.values() for value in values]
    if base and not any(column in EVALUATED for column in claim.columns):
        panels[0].axhline(statistics.mean(base), color=QUIET, linestyle="--", linewidth=1, label="untrained encoder")
    panels[0].set_title(written(claim.claim, WIDE), fontsize=8, loc="left", wrap=True)
    panels[0].set_ylabel(f"{claim.data} (n = {_counts(claim)})")
    panels[0].legend(fontsize=8)
    if below:
        panels[1].set_ylabel("published")
        panels[1].set_title(written(claim.source, WIDE), fontsize=6, loc="left", wrap=True)
    panels[-1].set_xlabel(heading(claim.columns[-1]))
    save(figure, path)


def picture_name(claim: Claim) -> str:
    """Such as nnclr_labels-photos.png."""
    return f"{claim.name}-{claim.data}.png"


def heading(column: str) -> str:
    """A setting as tables have it."""
    return column.removesuffix("._target_").rpartition(".")[2]


def as_word(value: Any) -> str:
    """A value of a setting as tables have it; a class by its name alone."""
    word = "none" if value is None else number(value)
    return word.rpartition(".")[2] if word.startswith("kindred.") else word


def _ordered(claim: Claim) -> list[tuple]:
    """All places: published ones in their order, and what else was measured; numbers along the axis by size."""
    every = list(dict.fromkeys([*claim.published, *claim.measured]))
    lines = list(dict.fromkeys(place[:-1] for place in every))
    along = list(dict.fromkeys(place[-1] for place in every))
    if is_numeric([value for value in along if value is not None]):
        along.sort(key=lambda value: (value is not None, value))
    return sorted(every, key=lambda place: (lines.index(place[:-1]), along.index(place[-1])))


def _line(claim: Claim, place: tuple) -> str:
    return as_word(place[0]) if len(claim.columns) == 2 else "accuracy"


def _measured(values: Sequence[float]) -> list[str]:
    deviation = _deviation(values)
    text = _accuracy(statistics.mean(values) if values else None)
    return [text + ("" if math.isnan(deviation) else f" ± {deviation:.3f}"), str(len(values) or "")]


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _counts(claim: Claim) -> str:
    counts = sorted({len(values) for values in claim.measured.values()})
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
