"""How benchmarks write down what they measured: a table to read, the numbers, and where they come from."""

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

# sense -> the value of one turn, whether a target is a floor or a ceiling, how a value is written
SENSES = {
    "times less": (lambda kindred, peer: peer / kindred, "at least", "{:.2f}x"),  # of seconds or bytes
    "times more": (lambda kindred, peer: kindred / peer, "at least", "{:.2f}x"),  # of a rate
    "at least": (lambda kindred, peer: kindred / peer, "at least", "{:.3f}"),
    "at most": (lambda kindred, peer: kindred / peer, "at most", "{:.3f}"),
    "more": (lambda kindred, peer: kindred - peer, "at most", "{:+.2f}"),
    "off by": (lambda kindred, peer: kindred / peer - 1, "within", "{:+.1%}"),  # a measured exponent and the theory's
}


@dataclass(frozen=True)
class Row:
    """One question, and its answer in turns: each compares Kindred with the peer in the same minute.

    Args:
        what, against: the question, and the peer; together they name the row.
        unit: of `kindred` and `peer`.
        kindred, peer: one number per turn; a single number of the peer's stands for all turns. No peer's: it did not run.
        sense: how a turn's two numbers become one value (SENSES).
        target: for the median of the values; None where none was set.
        note: what a reader must know to trust the number.
        never: in a turn, which is not among the numbers, Kindred did not get there at all: no target is reached.
    """

    what: str
    against: str
    unit: str
    kindred: list[float]
    peer: list[float]
    sense: str
    target: float | None = None
    note: str = ""
    never: bool = False

    @property
    def values(self) -> list[float]:
        """One per turn; none without a peer's numbers."""
        peers = self.peer * len(self.kindred) if len(self.peer) == 1 else self.peer
        return [SENSES[self.sense][0](kindred, peer) for kindred, peer in zip(self.kindred, peers, strict=bool(peers))]

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the target; None where there is nothing to compare."""
        if self.never and self.target is not None:
            return False
        if self.target is None or not self.values:
            return None
        value, bound = statistics.median(self.values), SENSES[self.sense][1]
        return {"at least": value >= self.target, "at most": value <= self.target, "within": abs(value) <= self.target}[
            bound
        ]

    def cells(self) -> list[str]:
        """The row of a table under COLUMNS."""
        _, bound, form = SENSES[self.sense]
        written = (
            [form.format(value) for value in (statistics.median(self.values), min(self.values), max(self.values))]
            if self.values
            else []
        )
        ratio = f"**{written[0]}** ({written[1]} to {written[2]})" if written else "never" if self.never else "no peer"
        target = "" if self.target is None else f"{bound} {form.format(self.target).lstrip('+')}"
        reached = {True: "yes", False: "NO", None: ""}[self.reached]
        note = f" ({self.note})" if self.note else ""
        return [
            self.what,
            self.against + note,
            self.unit,
            median(self.kindred),
            median(self.peer),
            ratio,
            target,
            reached,
        ]


COLUMNS = ["what", "against", "unit", "Kindred", "peer", "ratio, median (spread)", "target", "reached"]


def median(values: list[float]) -> str:
    """Such as `12.3`; nothing for no values."""
    return f"{statistics.median(values):,.4g}" if values else ""


def row_table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [COLUMNS, ["---"] * 2 + ["---:"] * 5 + [":---:"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def processor() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save(
    folder: Path | None, name: str, markdown: str, results: Any, packages: tuple[str, ...], notes: str = ""
) -> None:
    """Print `markdown` with hardware, versions and command below it; write `<name>.md` and `<name>.json` to `folder`."""
    versions = {package: version(package) for package in packages}
    command, date = " ".join(["python", *sys.argv]), f"{datetime.now(UTC):%Y-%m-%d}"
    about = (
        f"`{command}`: {f'{notes}; ' if notes else ''}{os.cpu_count()} cores of {processor()}; "
        f"{', '.join(f'{package} {number}' for package, number in versions.items())}; {date}."
    )
    text = f"{markdown}\n\n{about}\n"
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text)
        record = {"command": command, "date": date, "notes": notes, "processor": processor(), "cores": os.cpu_count()}
        record |= {"versions": versions, "results": results}
        (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def save_rows(
    folder: Path | None, name: str, rows: list[Row], packages: tuple[str, ...], notes: str = "", **more: Any
) -> None:
    """`save` for rows; `more` goes into the JSON beside them."""
    save(folder, name, row_table(rows), {"rows": [asdict(row) for row in rows], **more}, packages, notes)
