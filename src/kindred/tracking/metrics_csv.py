"""metrics.csv: one row per optimiser step that logged something, readable after a kill at any moment.

Lightning's CSVLogger deletes an existing file on resume and rewrites the whole file on every flush; this one appends,
and on resume drops the rows beyond the checkpoint. Imports neither torch nor Lightning: comparing runs reads it too.
"""

import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from kindred.files import unwritable, write_atomically


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv in order of step; an absent value is an absent key. A torn last line is left out.

    So are rows that MetricsFile does not write, as two processes at once or a bad disk leave them; they are counted on
    stderr.
    """
    if not path.exists():
        return []
    header, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    columns = header.split(",")
    rows = [row for line in lines[:-1] if (row := _row(columns, line.split(",")))]  # behind the last newline is no row
    if damaged := len(lines[:-1]) - len(rows):
        _tell(path, damaged)
    return rows


def _row(columns: list[str], cells: list[str]) -> dict[str, float] | None:
    """None if it is damaged: more or fewer cells than columns, no step, or a cell that is no number."""
    if len(cells) != len(columns) or not cells[0] or columns[0] != "step":
        return None
    try:
        return {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
    except ValueError:
        return None


@cache
def _tell(path: Path, damaged: int) -> None:
    print(f"{path}: {damaged} damaged {'row' if damaged == 1 else 'rows'} left out", file=sys.stderr)


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """A metrics.csv as columns [rows] float64, NaN where a row has no value; empty if there is no row."""
    rows = read_metrics(path)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The flat summary of a run's metrics: last values, base lines, and the best of the scheduled evaluations.

    A metric's name holds its last value; `untrained/<name>` an accuracy before the first step; `<split>/<name>_best` an
    accuracy's maximum over the scheduled evaluations, the untrained one left out.
    """
    summary: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            split, _, metric = name.partition("/")
            accuracy = "_top" in metric and split in ("val", "test")
            if accuracy and row["step"] == 0:
                summary[f"untrained/{metric}"] = value
                continue
            summary[name] = value
            if accuracy:
                summary[f"{name}_best"] = max(value, summary.get(f"{name}_best", -math.inf))
    return summary


class MetricsFile:
    """Appends rows to `path`; calls at the same step share one row.

    The newest row stays open: a later call at its step rewrites that line alone. A metric that is new to the file adds a
    column, which rewrites the file (atomically); after the first evaluation that no longer happens.

    Args:
        path: the file; rows that it already has are kept, so call `keep_until` first when resuming.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_metrics(path)
        self.columns = list(dict.fromkeys(["step", "epoch", *(name for row in rows for name in row)]))
        self.open_row: dict[str, float] = rows.pop() if rows else {}
        self._rewrite(rows)

    def keep_until(self, step: int) -> None:
        """Drop every row beyond `step`: what a run did after the checkpoint from which it now goes on."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        self.open_row = rows.pop() if rows else {}
        self._rewrite(rows)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add `metrics` to the row of `step`; `step` must not decrease."""
        if self.open_row and step < self.open_row["step"]:
            raise ValueError(f"metrics of step {step} after those of step {self.open_row['step']:g}: {self.path}")
        if self.open_row and step > self.open_row["step"]:
            try:
                self.offset = self.path.stat().st_size
            except OSError as error:
                raise unwritable(self.path, error) from error
            self.open_row = {}
        self.open_row |= {"step": step, **metrics}
        if new := [name for name in self.open_row if name not in self.columns]:
            self.columns += new
            self._rewrite([row for row in read_metrics(self.path) if row["step"] < step])
        else:
            self._write_open_row()

    def _rewrite(self, closed_rows: list[dict[str, float]]) -> None:
        lines = [",".join(self.columns), *(self._line(row) for row in closed_rows)]
        text = "\n".join(lines) + "\n"
        self.offset = len(text.encode())
        if self.open_row:
            text += self._line(self.open_row) + "\n"
        write_atomically(self.path, text)

    def _write_open_row(self) -> None:
        try:
            with open(self.path, "r+b") as file:
                file.seek(self.offset)
                file.write((self._line(self.open_row) + "\n").encode())
                file.truncate()
        except OSError as error:  # a row that is torn then has no end, and is none
            raise unwritable(self.path, error) from error

    def _line(self, row: dict[str, float]) -> str:
        return ",".join(format_number(row[name]) if name in row else "" for name in self.columns)


def format_number(value: float) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
