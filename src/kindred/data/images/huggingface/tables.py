"""Opening a data set of Hugging Face's: its splits, its columns, its labels."""

import difflib
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kindred.data.images.huggingface.rows import Rows
from kindred.errors import ConfigError

VALIDATION = ("validation", "valid", "val", "dev")  # names that a split has on the hub
EXPECTED = "give a folder of parquet files, one of save_to_disk, or a name on the hub that this machine reaches"
LABELS = ("int", "uint", "bool", "string", "large_string", "null")


class Tables:
    """The splits of a data set as they were asked for, their images undecoded.

    After construction: `names`, split -> its name in the data set; `class_names`; `there`, the data set's own splits.

    Args:
        path, image, label, subset, revision: see `kindred.data.images.huggingface.source.HuggingFace`.
        wanted: train, val, test and bank -> a name, or None for what goes without saying.

    Raises:
        ConfigError: naming the key, its value and what is there.
    """

    def __init__(
        self,
        path: str,
        image: str,
        label: str | None,
        subset: str | None,
        revision: str | None,
        wanted: Mapping[str, str | None],
    ) -> None:
        import datasets

        self.path, self.image, self.label, self.subset = path, image, label, subset
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        self.there = _open(path, subset, revision)
        self.names = self._names(wanted)
        for name in self.names.values():
            self._check_columns(self.there[name])
        kept = [image, *([] if label is None else [label])]
        files = datasets.Image(decode=False)
        self.tables = {
            split: self.there[name].select_columns(kept).cast_column(image, files) for split, name in self.names.items()
        }
        self.class_names, self._numbers = self._classes()

    def labels(self, split: str) -> np.ndarray:
        """int64 [N], -1: unlabelled"""
        if self.label is None:
            return np.full(len(self.tables[split]), -1, dtype=np.int64)
        return np.array([self._numbers.get(value, -1) for value in self._column(split)], dtype=np.int64)

    def rows(self, split: str, numbers: np.ndarray | None = None) -> Rows:
        """The images of a split; see Rows."""
        return Rows(self.tables[split], self.image, f"{self.path}, {self.names[split]}", numbers)

    def files(self, split: str) -> tuple[str, list[str]]:
        """A folder, and the files below it that the table is read from: those of the data set, or the library's copy of it.

        The names in the library's cache hold the revision on the hub.
        """
        if not os.path.exists(self.path):
            from datasets import config

            folder, found = config.HF_DATASETS_CACHE, [file["filename"] for file in self.tables[split].cache_files]
        elif os.path.isfile(self.path):
            folder, found = os.path.dirname(self.path) or ".", [self.path]
        else:
            folder, found = self.path, [str(path) for path in Path(self.path).rglob("*") if path.is_file()]
        return str(folder), sorted(os.path.relpath(name, folder) for name in found)

    def fingerprint(self, split: str) -> str:
        """Changes when the files do, by name, size or time."""
        folder, names = self.files(split)
        states = [os.stat(os.path.join(folder, name)) for name in names]
        told = [(name, state.st_size, state.st_mtime_ns) for name, state in zip(names, states, strict=True)]
        described = repr([told, self.subset, self.names[split]]).encode("utf-8", "surrogateescape")
        return hashlib.sha256(described).hexdigest()[:20]

    def _names(self, wanted: Mapping[str, str | None]) -> dict[str, str]:
        there, taken = self.there, {name for name in wanted.values() if name}
        usual = {"val": VALIDATION, "test": ("test",)}
        names: dict[str, str] = {}
        for split, name in wanted.items():
            if name is None:
                name = next((each for each in usual.get(split, ()) if each in there and each not in taken), None)
            elif name not in there:
                raise ConfigError(
                    f"data.source.{split} is {name!r}: {self.path} has no such split, but {', '.join(there)}"
                )
            elif twin := next((other for other, used in names.items() if used == name), None):
                raise ConfigError(f"data.source.{split} is {name!r}, and so is data.source.{twin}: choose another")
            if name is not None:
                names[split] = name
        if empty := [name for name in names.values() if not len(there[name])]:
            raise ConfigError(f"data.source.path: the split {empty[0]} of {self.path} has no rows")
        return names

    def _check_columns(self, table: Any) -> None:
        for key, name in (("image", self.image), ("label", self.label)):
            if name is None:
                continue
            if name not in table.features:
                near = difflib.get_close_matches(name, table.column_names, n=1, cutoff=0.5)
                raise ConfigError(
                    f"data.source.{key} is {name!r}: {self.path} has no such column"
                    f"{f'; did you mean {near[0]!r}?' if near else '.'} Columns: {', '.join(table.column_names)}"
                )
            feature, what = table.features[name], "labels are ClassLabel, whole numbers or texts; null: there are none"
            kind = str(getattr(feature, "dtype", ""))
            good = kind.startswith(LABELS)
            if key == "image":
                what = "images are Image features, or bytes or paths of files"
                is_file = isinstance(feature, dict) and feature.keys() == {"bytes", "path"}
                good = is_file or type(feature).__name__ == "Image" or kind in ("binary", "large_binary", "string")
            if not good:
                raise ConfigError(f"data.source.{key} is {name!r}, which holds {feature}: {what}")

    def _classes(self) -> tuple[list[str], dict[Any, int]]:
        """Names of the classes, and value in the column -> class: the same for all splits."""
        if self.label is None:
            return [], {}
        if names := getattr(self.tables["train"].features[self.label], "names", None):
            return list(names), {number: number for number in range(len(names))}
        found = {value for split in self.tables for value in self._column(split) if value is not None}
        values = sorted(value for value in found if isinstance(value, str) or value >= 0)
        return [str(value) for value in values], {value: number for number, value in enumerate(values)}

    def _column(self, split: str) -> list[Any]:
        """The labels as the table has them."""
        return self.tables[split].select_columns([self.label]).with_format("arrow")[:][self.label].to_pylist()


def _open(path: str, subset: str | None, revision: str | None) -> dict[str, Any]:
    """The data set's own splits."""
    import datasets

    try:
        if any(os.path.exists(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(path)
        elif os.path.isfile(path):
            found = datasets.load_dataset(Path(path).suffix.lstrip(".") or "parquet", data_files=path)
        else:
            found = datasets.load_dataset(path, name=subset, revision=revision)
    except Exception as error:  # theirs are of many kinds, some of them builtins
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ConfigError(f"data.source.path: {path} cannot be loaded ({reason}); {EXPECTED}") from error
    return dict(found) if isinstance(found, dict) else {"train": found}
