"""Images in a column of a table, one a row: the bytes of a file, or its path."""

import io
from typing import Any, NamedTuple

import numpy as np

from kindred.data.images.files import ImageFiles
from kindred.data.images.formats.decoding import Reading, decode
from kindred.errors import ConfigError

CHUNK = 64  # rows that a process decodes at a time


class Rows:
    """What can be opened and decoded, row by row.

    Args:
        table: row number -> {column: {"bytes": ..., "path": ...}}; a data set of Hugging Face's is one.
        column: with the images.
        place: what the table is, for errors.
        numbers: int64 [N], the rows to take; all of them by default.
    """

    def __init__(self, table: Any, column: str, place: str, numbers: np.ndarray | None = None) -> None:
        self.table, self.column, self.place = table, column, place
        self.numbers = np.arange(len(table)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> "str | _Row":
        """A path, or a file in memory that errors name by its row.

        Raises:
            ConfigError: the row holds no image.
        """
        number = int(self.numbers[position])
        found = self.table[number][self.column] or {}
        if found.get("bytes"):
            return _Row(found["bytes"], f"{self.place}, row {number}")
        if found.get("path"):
            return found["path"]
        raise ConfigError(f"{self.place}, row {number} cannot be decoded (it holds no image)")


class _Row(io.BytesIO):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.described = name

    def __str__(self) -> str:
        return self.described


class TableImages(ImageFiles):
    """Images that are decoded when they are read, as those of files are; their `names` are Rows."""

    def path(self, position: int) -> Any:
        return self.names[position]


class Decoded(NamedTuple):
    first: int  # position
    images: np.ndarray  # uint8 [N, C, S, S], of zeros where they are bad; S = 0: only checked
    bad: dict[int, str]  # position -> message


class Chunks:
    """Rows decoded a chunk at a time, for the workers of a loader: central squares; without a size they are only checked."""

    def __init__(self, rows: Rows, size: int | None, reading: Reading) -> None:
        self.rows, self.size, self.reading = rows, size, reading

    def __len__(self) -> int:
        return -(-len(self.rows) // CHUNK)

    def __getitem__(self, number: int) -> Decoded:
        first = number * CHUNK
        positions = range(first, min(first + CHUNK, len(self.rows)))
        size = self.size or 0
        images, bad = np.zeros((len(positions), self.reading.channels, size, size), np.uint8), {}
        for position in positions:
            try:
                image = decode(self.rows[position], self.reading, draft=not size)
            except ConfigError as error:
                bad[position] = str(error)
                continue
            if size:
                images[position - first] = image.centre(size)
        return Decoded(first, images, bad)
