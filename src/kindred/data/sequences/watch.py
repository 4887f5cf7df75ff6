"""Real sensor data that need no download: shoulder exercises under a smart watch, which ship with seglearn."""

import importlib.util
from pathlib import Path

import numpy as np

from kindred.data.cache import build_once, open_array
from kindred.data.inventory import Files, look_up
from kindred.data.order import permutation
from kindred.data.sequences.source import SequenceSource
from kindred.data.source import ArrayExamples
from kindred.errors import ConfigError
from kindred.values import Count

VERSION = 1  # raise it when anything below changes: caches carry it in their path
HELD_OUT = 2  # of the ten people, for val and for test each


class Watch(SequenceSource):
    """140 recordings of 10 people who do 7 shoulder exercises with either arm (Burns et al. 2018, arXiv:1802.01489).

    Acceleration and rotation in three axes each, at 50 Hz, cut into windows that overlap. People, not windows, are dealt to
    train (6), val (2) and test (2): what is judged is somebody else's arm. seglearn's file is read, nothing is imported.

    Args:
        root: of the cache.
        length: T, steps of a window.
        stride: steps from one window of a recording to the next.
        scaling: see SequenceSource.
    """

    name = "watch"
    class_names = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]  # as the data set has them

    def __init__(
        self, root: str = "data/watch", length: Count = 256, stride: Count = 64, scaling: str | None = None
    ) -> None:
        super().__init__(scaling)
        self.root, self.length, self.stride = Path(root), length, stride

    @property
    def folder(self) -> Path:
        return self.root / f"v{VERSION}-{self.length}-{self.stride}"

    def prepare(self) -> None:
        build_once(self.folder, self._build, key="data.source.root")

    def load(self, split: str) -> ArrayExamples | None:
        if split == "bank":
            return None
        return ArrayExamples(open_array(self.folder / f"{split}.npy"), np.load(self.folder / f"{split}-labels.npy"))

    def inventory(self, split: str) -> Files | None:
        """The arrays of `split`, as they were built here."""
        return None if split == "bank" else look_up(self.folder, [f"{split}.npy", f"{split}-labels.npy"])

    def _build(self, folder: Path) -> None:
        recordings, labels, people = read_recordings()
        if self.length > (shortest := min(map(len, recordings))):
            raise ConfigError(f"data.length is {self.length}: the shortest recording has {shortest} steps")
        for split, chosen in deal(people).items():
            numbers = np.flatnonzero(np.isin(people, chosen))
            cut = [windows(recordings[number], self.length, self.stride) for number in numbers]
            np.save(folder / f"{split}.npy", np.concatenate(cut))
            np.save(folder / f"{split}-labels.npy", np.repeat(labels[numbers], list(map(len, cut))))


def read_recordings() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Recordings float64 [steps, 6], the class of each int64 [140], and the person int64 [140], 1 to 10.

    Raises:
        ConfigError: seglearn is not installed.
    """
    spec = importlib.util.find_spec("seglearn")
    if spec is None or spec.origin is None:
        raise ConfigError("data=watch needs the package seglearn: make setup, or pip install kindred[series]")
    # A pickle, but one of an installed package, whose code could do anything too.
    held = np.load(Path(spec.origin).parent / "data" / "watch_dataset.npy", allow_pickle=True).item()
    return list(held["X"]), held["y"].astype(np.int64), held["subject"].astype(np.int64)


def deal(people: np.ndarray) -> dict[str, np.ndarray]:
    """The people of each split, in an order of their own."""
    everyone = np.unique(people)
    order = everyone[permutation(len(everyone), 0)]
    return {"val": order[:HELD_OUT], "test": order[HELD_OUT : 2 * HELD_OUT], "train": order[2 * HELD_OUT :]}


def windows(recording: np.ndarray, length: int, stride: int) -> np.ndarray:
    """float32 [N, C, length], all that fit, of a recording [steps, C]."""
    cut = np.lib.stride_tricks.sliding_window_view(recording, length, axis=0)[::stride]
    return np.ascontiguousarray(cut, dtype=np.float32)
