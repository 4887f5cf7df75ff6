"""A comparison as one HTML file that needs nothing else: curves, a table to sort, and the pictures of the runs.

Names and settings may come from someone else's runs. They reach the page escaped, and the page allows no script but its
own two and no address to be loaded (its Content-Security-Policy holds their hashes).
"""

import base64
import gzip
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kindred.runs.run import Run
from kindred.study.groups import Group
from kindred.study.settings import as_text, flat_config
from kindred.tracking.sparing import sparing

if TYPE_CHECKING:
    from kindred.study.comparison import Comparison

TEMPLATE = Path(__file__).with_name("comparison.html")
POINTS, FEWEST = 400, 50  # of a curve, at most and at least: more than a plot has pixels to show apart
SHOWN = 20_000  # points of all curves of a metric: where hundreds lie over each other, each needs fewer
WIDTHS = (700, 450)  # of a picture: of up to OPEN of a kind, and of more
MOST_BYTES = 1_000_000  # of the pictures of a kind, before base64; what comes after that stays in the run directories
MOST_PIXELS = 20_000_000
LABEL = 48  # characters of a legend entry
LONG = 40  # characters of a cell that may wrap
OPEN = 12  # pictures that are shown unasked
PICTURES = {"neighbours": "Nearest neighbours", "views": "Views"}

# Readable on white and on black.
COLOURS = ("#3f7fd9", "#e0702a", "#2f9e68", "#c24d9b", "#8a6bd8", "#b8901f", "#2b9fb0", "#d4504c")
RAMP = np.array([(58, 123, 222), (142, 84, 205), (214, 68, 120), (226, 122, 40), (190, 165, 30)])


def page(comparison: "Comparison") -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    parts = re.split(r"\{\{(\w+)\}\}", TEMPLATE.read_text(encoding="utf-8"))
    script = parts[parts.index("data") + 1]  # from the data's place to the end of the page
    [code] = re.findall(r"<script>(.*)</script>", script, re.DOTALL)
    plotly = get_plotlyjs()
    groups, colours = comparison.groups, group_colours(comparison.groups)
    runs = sum(len(group.runs) for group in groups)
    points = min(POINTS, max(FEWEST, SHOWN // max(1, runs)))
    values = {
        "scripts": " ".join(f"'{_hash(text)}'" for text in (plotly, code)),
        "title": _count(runs, "run") + ("" if runs == len(groups) else f" in {_count(len(groups), 'row')}"),
        "plotly": _packed(plotly),
        "head": _head(comparison),
        "rows": "\n".join(_row(comparison, group, colour) for group, colour in zip(groups, colours, strict=True)),
        "judges": _judges(comparison),
        "pictures": "\n".join(_pictures(comparison, kind, colours) for kind in PICTURES),
        "data": _packed(_json([_curves(comparison, g, c, points) for g, c in zip(groups, colours, strict=True)])),
    }
    whole = "".join(values[part] if place % 2 else part for place, part in enumerate(parts))
    return whole.encode("utf-8", "replace").decode("utf-8")


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _packed(text: str) -> str:
    """Text as the page's `unpack` reads it; in a third of the room, and with nothing in it that HTML would act on."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


def group_colours(groups: Sequence[Group]) -> list[str]:
    """A colour per group, the same where settings are: along RAMP, by value, if one number differs, or if there are many."""
    settings = list({as_text(group.settings): group.settings for group in groups}.values())
    values = [value for one in settings if len(one) == 1 for value in one.values() if isinstance(value, int | float)]
    if len(values) == len(settings):
        order = np.argsort(np.argsort(values))
    elif len(settings) > len(COLOURS):
        order = np.arange(len(settings))
    else:
        return [COLOURS[settings.index(group.settings)] for group in groups]
    place = order / max(1, len(settings) - 1) * (len(RAMP) - 1)
    channels = np.array([np.interp(place, range(len(RAMP)), RAMP[:, c]) for c in range(3)]).round().astype(int).T
    return ["#{:02x}{:02x}{:02x}".format(*channels[settings.index(group.settings)]) for group in groups]


def _head(comparison: "Comparison") -> str:
    """The header row. A metric's first click sorts downwards, a setting's upwards."""
    headings = [(heading, "ascending") for heading in comparison.headings(comparison.settings)]
    headings += [(column.heading, "descending") for column in comparison.columns]
    if comparison.names:
        headings.append(("runs", "ascending"))
    return "".join(
        f'<th scope="col" data-first="{first}"><button type="button">{html.escape(heading)}</button></th>'
        for heading, first in headings
    )


def _row(comparison: "Comparison", group: Group, colour: str) -> str:
    cells = [_cell(text, text) for text in comparison.cells(group, comparison.settings)]
    cells[0] = cells[0].replace(">", f'><i class="swatch" style="background:{colour}"></i>', 1)
    for column in comparison.columns:
        mean = group.mean(column.name)
        kind = "best" if group in comparison.best(column) else ""
        cells.append(_cell(column.text(group), "" if math.isnan(mean) else repr(mean), kind))
    if comparison.names:
        names = ", ".join(as_text(run.path.name) for run in group.runs)
        cells.append(_cell(names, names, "runs", ", ".join(as_text(str(run.path)) for run in group.runs)))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, value: str, kind: str = "", title: str = "") -> str:
    """A cell that sorts by `value`."""
    kind = kind or ("long" if len(text) > LONG else "")
    attributes = {"data-value": value, "class": kind, "title": title}
    written = "".join(f' {name}="{html.escape(content)}"' for name, content in attributes.items() if content)
    return f"<td{written}>{html.escape(text)}</td>"


def run_label(run: Run) -> str:
    """The run's own name among those of its group."""
    seed = flat_config(run).get("seed")
    return as_text(run.path.name) + ("" if seed is None else f", seed {as_text(seed)}")


def _curves(comparison: "Comparison", group: Group, colour: str, points: int) -> dict[str, Any]:
    label = comparison.label(group)
    return {
        "label": label if len(label) <= LABEL else f"{label[: LABEL - 1]}…",
        "colour": colour,
        "dash": "dot" if comparison.state(group) else "solid",
        "runs": [{"label": run_label(run), "curves": curves(run.metrics, points)} for run in group.runs],
    }


def curves(metrics: dict[str, np.ndarray], points: int = POINTS) -> dict[str, list[list[float]]]:
    """Each metric as [epochs, values], at most `points` of them, the last one always among them."""
    found = {}
    for name in metrics.keys() - {"step", "epoch"}:
        there = np.flatnonzero(np.isfinite(metrics[name]) & np.isfinite(metrics["epoch"]))
        if len(there) > points:
            there = there[np.linspace(0, len(there) - 1, points).round().astype(int)]
        if len(there):
            found[name] = [[float(f"{value:.5g}") for value in metrics[x][there]] for x in ("epoch", name)]
    return found


def _judges(comparison: "Comparison") -> str:
    """The section of the judges; nothing where they cannot be tried."""
    if not comparison.trials:
        return ""
    from kindred.study.judges_report import section  # matplotlib takes half a second to import

    return section(comparison.trials)


def _pictures(comparison: "Comparison", kind: str, colours: Sequence[str]) -> str:
    """The section of one kind of pictures, those of the first rows; nothing if no run has any.

    A picture of several runs, as the views of one seed are, is embedded once; the script shows it to the others.
    """
    found = [
        (run.path / "figures" / f"{kind}.png", group, colour, run)
        for group, colour in zip(comparison.groups, colours, strict=True)
        for run in group.runs
        if (run.path / "figures" / f"{kind}.png").is_file()
    ]
    embedded: dict[bytes, bytes] = {}  # what is in the file -> JPEG; nothing for what is no picture
    figures = []
    for path, group, colour, run in found:
        file = path.read_bytes()
        digest = hashlib.sha256(file).digest()
        if new := digest not in embedded:
            if sum(map(len, embedded.values())) > MOST_BYTES:
                continue
            embedded[digest] = b""
            with sparing(as_text(str(path))):
                embedded[digest] = _shrunk(file, WIDTHS[len(found) > OPEN])
        if not embedded[digest]:
            continue
        name = f"{kind}{list(embedded).index(digest)}"
        picture = f'data-as="{name}"'
        if new:
            picture = f'id="{name}" src="data:image/jpeg;base64,{base64.b64encode(embedded[digest]).decode()}"'
        label, own = comparison.label(group) if comparison.names else "", run_label(run)
        figures.append(
            f'<figure><figcaption><i class="swatch" style="background:{colour}"></i>{html.escape(label)} '
            f"<small>{html.escape(own)}</small></figcaption>"
            f'<img {picture} alt="{html.escape(f"{kind} of {own}")}"></figure>'
        )
    if not figures:
        return ""
    count = str(len(figures)) if len(figures) == len(found) else f"{len(figures)} of {len(found)}"
    return (
        f"<details{' open' * (len(figures) <= OPEN)}><summary>{PICTURES[kind]} <small>{count}</small></summary>"
        f'<div class="pictures {kind}">{"".join(figures)}</div></details>'
    )


def _shrunk(file: bytes, width: int) -> bytes:
    """A PNG as JPEG, at most `width` wide.

    Raises:
        Exception: of many classes, for what is no picture.
        ValueError: one far too large.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(file), formats=["PNG"])
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels")
    image = image.convert("RGB")
    if image.width > width:
        size = (width, max(1, round(image.height * width / image.width)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    made = io.BytesIO()
    image.save(made, "JPEG", quality=75)  # WebP is a third smaller and takes ten times as long
    return made.getvalue()
