"""Your own texts: folders of .txt files, one a class, or CSV and JSON-lines files with a column of texts."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kindred.data.inventory import Files, look_up
from kindred.data.source import ArrayExamples, NoTestError
from kindred.data.text.source import Texts, TextSource
from kindred.errors import ConfigError
from kindred.values import Count

TABLES = (".csv", ".jsonl")
LAYOUT = (
    "expected <root>/<class>/*.txt, or <root>/train/<class>/*.txt and optionally val/ and test/ with the same classes; or a "
    ".csv or .jsonl file, or <root>/train.csv (.jsonl) and optionally val and test"
)


class TextFolder(TextSource):
    """A folder of text files, or tables of texts; tokens are kept in a cache whose name changes when any file does.

    Without a val split the DataModule cuts one from train. A row whose label is empty, null or absent is unlabelled, and so
    are .txt files that are in no class folder.

    Args:
        root: a folder, or one table.
        vocab_size, length, tokenizer: see TextSource.
        text, label: columns of a CSV file with a header, or keys of a JSON line.
        cache_dir: where the cache goes; None: <root>/.kindred, of one table .kindred beside it.

    Raises:
        ConfigError: naming the key, the path and what is expected there.
    """

    name = "textfolder"

    def __init__(
        self,
        root: str,
        vocab_size: Count = 8192,
        length: Count = 128,
        tokenizer: str | None = None,
        text: str = "text",
        label: str = "label",
        cache_dir: str | None = None,
    ) -> None:
        self.root, self.text, self.label = Path(root), text, label
        beside = self.root.parent if self.root.suffix in TABLES else self.root
        super().__init__(Path(cache_dir) if cache_dir else beside / ".kindred", vocab_size, length, tokenizer)
        self.class_names: list[str] = []

    def load(self, split: str) -> ArrayExamples | None:
        examples = super().load(split)
        if examples is None and split == "test":
            raise NoTestError(
                f"data.source.root: {self.root} has no test texts; {LAYOUT}. Without them only val texts can judge"
            )
        return examples

    def inventory(self, split: str) -> Files | None:
        """The text files or the table of `split`."""
        files = self._files().get(split)
        top = self.root.parent if self.root.suffix in TABLES else self.root
        return None if files is None else look_up(top, (str(path.relative_to(top)) for path in files))

    def fingerprint(self) -> str:
        found = [
            (str(path), (status := path.stat()).st_size, status.st_mtime_ns)
            for files in self._files().values()
            for path in files
        ]
        stamp = repr((str(self.root.absolute()), self.text, self.label, found))
        return hashlib.sha256(stamp.encode("utf-8", "surrogateescape")).hexdigest()

    def texts(self) -> dict[str, Texts]:
        read = {split: list(self._read(split, files)) for split, files in self._files().items()}
        classes = sorted({label for _, label in read["train"]} - {""})
        numbers = {"": -1, **{name: number for number, name in enumerate(classes)}}
        for split, rows in read.items():
            if unknown := {label for _, label in rows} - numbers.keys():
                raise ConfigError(
                    f"data.source.root: {self.root}: {split} has the class {min(unknown)!r}, which train lacks; {LAYOUT}"
                )
        self.class_names = classes
        return {
            split: Texts([text for text, _ in rows], np.array([numbers[label] for _, label in rows], dtype=np.int64))
            for split, rows in read.items()
        }

    def _files(self) -> dict[str, list[Path]]:
        """Split -> its files, sorted."""
        if self.root.suffix in TABLES:
            if not self.root.is_file():
                raise ConfigError(f"data.source.root: there is no file {self.root}; {LAYOUT}")
            return {"train": [self.root]}
        if not self.root.is_dir():
            raise ConfigError(f"data.source.root: there is no folder {self.root.absolute()}; {LAYOUT}")
        splits = {
            split: [path for suffix in TABLES if (path := self.root / f"{split}{suffix}").is_file()][:1]
            or sorted(_visible((self.root / split).rglob("*.txt"), self.root))
            for split in ("train", "val", "test")
        }
        found = {split: files for split, files in splits.items() if files}
        if "train" not in found:
            found = {"train": [] if found else sorted(_visible(self.root.rglob("*.txt"), self.root))}
        if not found["train"]:
            raise ConfigError(f"data.source.root: {self.root.absolute()} has no train texts; {LAYOUT}")
        return found

    def _read(self, split: str, files: list[Path]) -> Iterator[tuple[str, str]]:
        """Texts with their classes, "" for none."""
        for path in files:
            if path.suffix in TABLES:
                yield from self._rows(path)
            else:
                top = self.root / split
                inner = path.relative_to(top if path.is_relative_to(top) else self.root).parts
                yield _content(path), inner[0] if len(inner) > 1 else ""

    def _rows(self, path: Path) -> Iterator[tuple[str, str]]:
        for number, row in _csv(path) if path.suffix == ".csv" else _json_lines(path):
            if not isinstance(text := row.get(self.text), str):
                given = ", ".join(repr(key) for key in row if key)[:200]
                raise ConfigError(
                    f"data.source.text: line {number} of {path} has no text {self.text!r}; it has {given}"
                )
            label = row.get(self.label)
            yield text, "" if label is None else str(label)


def _visible(paths: Iterable[Path], root: Path) -> list[Path]:
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data.source.root: {path} is no UTF-8 text: {error}") from error


def _csv(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.DictReader(_content(path).splitlines(keepends=True))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise ConfigError(f"data.source.root: line {rows.line_num} of {path} is no CSV: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(_content(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"data.source.root: line {number} of {path} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"data.source.root: line {number} of {path} is a {type(row).__name__}, not an object")
            yield number, row
