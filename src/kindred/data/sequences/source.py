"""What all sources of sequences share: float32 [C, T] of one shape, and the mean and deviation that they are scaled by."""

import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kindred.data.inventory import Files
from kindred.data.source import Examples
from kindred.errors import ConfigError

SCALING = "scaling.json"
LOOKED_AT = 1024  # train examples, evenly spread, that the scaling is of


class Scaling(NamedTuple):
    """What inputs are scaled by before an encoder sees them, per channel, in the units of the source."""

    mean: list[float]
    std: list[float]


class SequenceSource(ABC):
    """Sequences of C channels and T steps, float32 [B, C, T] when they are read.

    Args:
        scaling: path of a saved scaling.json, such as a run keeps; None: that of the train examples.
    """

    name: str
    class_names: list[str]
    skipped = 0

    def __init__(self, scaling: str | None) -> None:
        self.given = scaling

    @abstractmethod
    def prepare(self) -> None:
        """See Source."""

    @abstractmethod
    def load(self, split: str) -> Examples | None:
        """See Source."""

    @abstractmethod
    def inventory(self, split: str) -> Files | None:
        """See Source."""

    def adopt(self, path: Path) -> None:
        """Scale by what the file at `path` says, whatever the train examples are like."""
        self.given = str(path)
        self.__dict__.pop("scaling", None)

    @cached_property
    def scaling(self) -> Scaling:
        """After prepare()."""
        if self.given is not None:
            return _read(self.given)
        train = self.load("train")
        assert train is not None  # Source.load
        return scaling_of(train)


def scaling_of(train: Examples) -> Scaling:
    """Mean and standard deviation per channel, of LOOKED_AT examples and all their steps; 1 for a channel at rest."""
    positions = np.unique(np.linspace(0, len(train.labels) - 1, LOOKED_AT).astype(np.int64))
    channels = train.read(positions[:1]).shape[1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(positions), 64):
        values = train.read(positions[start : start + 64]).astype(np.float64)
        total, squares = total + values.sum(axis=(0, 2)), squares + (values**2).sum(axis=(0, 2))
        count += values.shape[0] * values.shape[2]
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    still = deviation <= 1e-6 * np.sqrt(squares / count)
    # Of six digits: the sums may be taken in another order elsewhere.
    rounded = [[float(f"{value:.6g}") for value in values] for values in (mean, np.where(still, 1.0, deviation))]
    return Scaling(*rounded)


def _read(path: str) -> Scaling:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        mean, std = ([float(value) for value in found[key]] for key in ("mean", "std"))
    except OSError as error:
        raise ConfigError(
            f"data.source.scaling: {path} cannot be read ({error.strerror}); give a {SCALING}, or null to take the train "
            "examples'"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"data.source.scaling: {path} is no {SCALING}, which has a list of mean and of std"
        ) from error
    if len(mean) != len(std) or not np.isfinite(mean).all() or not (np.isfinite(std) & (np.array(std) > 0)).all():
        raise ConfigError(f"data.source.scaling: {path} needs a finite mean and a std above 0 for each channel")
    return Scaling(mean, std)
