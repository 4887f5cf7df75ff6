"""Sequences of one's own sensors: an array [N, C, T] in a .npy file, and labels and groups in others."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kindred.data.cache import open_array
from kindred.data.inventory import Files, look_up
from kindred.data.order import stratified_order
from kindred.data.sequences.source import SequenceSource
from kindred.data.splits import HELD_OUT, SPLITS, deal_groups
from kindred.errors import ConfigError

BLOCK = 1 << 24  # values that are looked at in one go


class Rows(NamedTuple):
    """Some rows of an array in a file, read when they are asked for."""

    array: np.ndarray  # [N, C, T]
    rows: np.ndarray  # int64 [n]
    labels: np.ndarray  # int64 [n], -1: unlabelled

    def read(self, positions: np.ndarray) -> np.ndarray:
        return self.array.take(self.rows[positions], axis=0).astype(np.float32)

    def read_train(self, positions: np.ndarray, epoch: int, views: Any) -> np.ndarray:
        return self.read(positions)


class Arrays(SequenceSource):
    """An array file, memory-mapped, dealt 70/15/15 to train, val and test.

    With `groups` whole groups are dealt, so that no person, machine or day is in two splits: windows that were cut with an
    overlap need it, for their neighbours would else be their judges. Without, examples are, each class by itself.

    Args:
        path: .npy file of integers or floats [N, C, T].
        labels: .npy file [N] of whole numbers, -1 for none, or of names, "" for none; None: nothing has a label.
        groups: .npy file [N] of whole numbers or names.
        scaling: see SequenceSource.

    Raises:
        ConfigError: naming the key, the file and what is expected in it.
    """

    name = "arrays"

    def __init__(
        self, path: str, labels: str | None = None, groups: str | None = None, scaling: str | None = None
    ) -> None:
        super().__init__(scaling)
        self.path, self.labels, self.groups = path, labels, groups
        self.class_names: list[str] = []

    def prepare(self) -> None:
        array, _ = self._array, self._splits
        if array.dtype.kind == "f":
            step = max(1, BLOCK // (array.shape[1] * array.shape[2]))
            for start in range(0, len(array), step):
                finite = np.isfinite(array[start : start + step]).all(axis=(1, 2))
                if not finite.all():
                    raise ConfigError(
                        f"data.source.path: example {start + int(np.argmin(finite))} of {self.path} has values that are not "
                        "finite: fill the gaps, or leave such examples out"
                    )

    def load(self, split: str) -> Rows | None:
        if split == "bank":
            return None
        rows, labels = self._splits[split], self._labels
        return Rows(self._array, rows, labels[rows])

    def inventory(self, split: str) -> Files | None:
        """All files, whichever the split: each is cut from them."""
        if split == "bank":
            return None
        given = [str(Path(name).absolute()) for name in (self.path, self.labels, self.groups) if name is not None]
        return look_up("/", [name.lstrip("/") for name in given])

    @cached_property
    def _array(self) -> np.ndarray:
        array = _open("path", self.path)
        if array.ndim != 3 or array.dtype.kind not in "iuf" or not array.size:
            raise ConfigError(
                f"data.source.path: {self.path} has shape {list(array.shape)} of {array.dtype}: give numbers [N, C, T], N "
                "examples of C channels and T steps"
            )
        return array

    @cached_property
    def _labels(self) -> np.ndarray:
        """int64 [N], and `class_names` by the way."""
        if self.labels is None:
            return np.full(len(self._array), -1, dtype=np.int64)
        given = self._column("labels", self.labels)
        known = given != "" if given.dtype.kind == "U" else given >= 0
        names, numbers = np.unique(given[known], return_inverse=True)
        self.class_names = [str(name) for name in names]
        labels = np.full(len(given), -1, dtype=np.int64)
        labels[known] = numbers
        return labels

    @cached_property
    def _splits(self) -> dict[str, np.ndarray]:
        """Sorted rows of each split."""
        labels = self._labels
        if self.groups is None:
            val, test, train = stratified_order(labels, [round(HELD_OUT * len(labels))] * 2)
            found = {"train": train, "val": val, "test": test}
        else:
            _, group, counts = np.unique(self._column("groups", self.groups), return_inverse=True, return_counts=True)
            dealt = deal_groups(counts)
            for number in set(range(len(SPLITS))) - set(dealt.tolist()):  # of few groups: the smallest of train
                train = np.flatnonzero(dealt == 0)
                if len(train) > 1:
                    dealt[train[np.argmin(counts[train])]] = number
            found = {name: np.flatnonzero(dealt[group] == number) for number, name in enumerate(SPLITS)}
        if empty := [split for split, rows in found.items() if not len(rows)]:
            what = "examples" if self.groups is None else f"groups in {self.groups}"
            raise ConfigError(f"data.source.path: there are too few {what} to have {' and '.join(empty)} examples")
        return found

    def _column(self, key: str, path: str) -> np.ndarray:
        """[N], of whole numbers or names."""
        column = np.array(_open(key, path))
        if column.shape != (count := len(self._array),) or column.dtype.kind not in "iuU":
            raise ConfigError(
                f"data.source.{key}: {path} has shape {list(column.shape)} of {column.dtype}: give whole numbers or names "
                f"[{count}], one for each example of {self.path}"
            )
        return column


def _open(key: str, path: str) -> np.ndarray:
    try:
        return open_array(Path(path))
    except FileNotFoundError as error:
        raise ConfigError(f"data.source.{key}: there is no file {Path(path).absolute()}; give a .npy file") from error
    except (OSError, ValueError, EOFError) as error:  # another format, Python objects, a file that is cut off
        raise ConfigError(
            f"data.source.{key}: {path} is no .npy file of numbers or names: {' '.join(str(error).split())}"
        ) from error
