"""Labels from a CSV file beside the examples."""

import csv
import os
from collections.abc import Mapping

import numpy as np

from kindred.data.folders.listing import Listing
from kindred.errors import ConfigError

HEADER = ["path", "label"]


class Labels:
    """The rows of a CSV file with the columns path and label: a path below the root, an empty label for none.

    Args:
        root: the folder that paths are relative to, and the file's own too.
        file: the CSV file.

    Raises:
        ConfigError: naming data.source.labels and the line.
    """

    def __init__(self, root: str, file: str) -> None:
        self.root, self.path = root, os.path.join(root, file)
        self.rows: dict[str, str] = {}
        where = f"data.source.labels: {self.path}"
        try:
            with open(self.path, encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
                lines = csv.reader(opened)
                if (first := next(lines, [])) != HEADER:
                    raise ConfigError(
                        f"{where}: its first line is {','.join(first)[:80]!r} and must be {','.join(HEADER)!r}"
                    )
                for row in filter(None, lines):
                    self._add(row, f"{where}, line {lines.line_num}")
        except FileNotFoundError as error:
            raise ConfigError(f"{where}: there is no such file; a path is relative to data.source.root") from error
        except (OSError, csv.Error) as error:
            raise ConfigError(f"{where}: cannot be read ({error})") from error
        self.class_names = sorted({label for label in self.rows.values() if label})

    def _add(self, row: list[str], where: str) -> None:
        if len(row) != len(HEADER):
            raise ConfigError(
                f"{where}: has {len(row)} values and must have a path and a label, the label may be empty"
            )
        path, label = os.path.normpath(row[0]), row[1].strip()
        if self.rows.setdefault(path, label) != label:
            raise ConfigError(f"{where}: {row[0]} is {label!r} here and {self.rows[path]!r} further up")

    def check(self, listings: Mapping[str, Listing], several: str) -> None:
        """Refuse paths that are no file of any split: misspelt, they would leave `several` unlabelled."""
        found = {path for listing in listings.values() for path in self._paths(listing)}
        found |= {self._below(listing, path) for listing in listings.values() for path, _ in listing.skipped}
        if unknown := sorted(self.rows.keys() - found):
            raise ConfigError(
                f"data.source.labels: {self.path} names {len(unknown)} {several} that are not in "
                f"{os.path.abspath(self.root)}, such as {unknown[0]}: paths are relative to data.source.root"
            )

    def of(self, listing: Listing) -> Listing:
        """`listing` with the labels of its files; what the file does not name has none."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = [numbers.get(self.rows.get(path, ""), -1) for path in self._paths(listing)]
        known = max(labels) >= 0
        return listing._replace(labels=np.array(labels, dtype=np.int64), class_names=self.class_names if known else [])

    def _paths(self, listing: Listing) -> list[str]:
        return [self._below(listing, os.fsdecode(name)) for name in listing.names]

    def _below(self, listing: Listing, path: str) -> str:
        return os.path.normpath(os.path.join(os.path.relpath(listing.folder, self.root), path))
