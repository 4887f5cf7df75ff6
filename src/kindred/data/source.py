"""Where examples come from. A source knows its splits and how to read them; it knows nothing of batches and ranks.

Imports no torch: a source may be asked what it holds before that.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from kindred.data.inventory import Files
from kindred.errors import ConfigError


class NoTestError(ConfigError):
    """A source without a test split."""


class Examples(Protocol):
    """One split: examples of any kind that are read a batch at a time, by position."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], -1: unlabelled"""
        ...

    def read(self, positions: np.ndarray) -> np.ndarray:
        """The raw batch [B, ...] of the examples at `positions` (int64 [B]) as evaluation sees them."""
        ...

    def read_train(self, positions: np.ndarray, epoch: int, views: Any) -> np.ndarray:
        """The same for training: `views` may cut what is too large to be moved whole, with its draws of that epoch."""
        ...


class ArrayExamples(NamedTuple):
    """Examples in memory or in a memory-mapped file."""

    array: np.ndarray  # [N, ...], of any dtype that torch has
    labels: np.ndarray

    def read(self, positions: np.ndarray) -> np.ndarray:
        return self.array.take(positions, axis=0)  # [positions] takes longer where examples are large

    def read_train(self, positions: np.ndarray, epoch: int, views: Any) -> np.ndarray:
        """In memory an epoch's examples are any epoch's: the views cut them on the device."""
        return self.array.take(positions, axis=0)


class Source(Protocol):
    """What the DataModule asks of a source. Constructors do no work: no import, no listing, no download."""

    name: str
    class_names: list[str]  # known after prepare() or load()
    skipped: (
        int  # examples left out because they cannot be read; `skipped_files`, where there is one, lists (path, reason)
    )

    def prepare(self) -> None:
        """Download and build caches. Runs in one process per node."""

    def load(self, split: str) -> Examples | None:
        """The examples of "train", "val", "test" or "bank".

        None for "val": it is to be cut from train. None for "bank": the train examples are the labelled ones. A missing
        test split is a NoTestError.
        """

    def inventory(self, split: str) -> Files | None:
        """The files that `split` is read from, after prepare(), or before it where that has nothing to do with them; None:
        there is no such split. By them a run tells that its data have changed; a source that has no such method is known
        by the labels of its examples alone.
        """
