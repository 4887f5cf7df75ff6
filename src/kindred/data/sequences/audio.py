"""Recordings of one's own: <root>/<split>/<class>/*.wav|flac|ogg, decoded and resampled once, cut into crops when read."""

import json
import math
import os
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from kindred.data.cache import build_once
from kindred.data.folders.layout import list_splits
from kindred.data.folders.listing import RECORDINGS, Listing
from kindred.data.inventory import Files
from kindred.data.sequences.source import SequenceSource
from kindred.data.sequences.views import SequenceViews
from kindred.data.source import NoTestError
from kindred.errors import ConfigError
from kindred.values import Count

VERSION = 1  # of how a file becomes samples: raise it when that changes


class Crops(NamedTuple):
    """Recordings of any length, of which crops of one length are read.

    Training reads a crop for each view, which begins where the views' draws of (seed, epoch, index, view) say; evaluation
    the middle.
    """

    samples: np.ndarray  # float32, of all recordings one after the other, memory-mapped
    starts: np.ndarray  # int64 [N]
    steps: np.ndarray  # int64 [N], of each recording
    labels: np.ndarray
    length: int

    def read(self, positions: np.ndarray) -> np.ndarray:
        """float32 [B, 1, length]"""
        return self._cut(self.starts[positions] + (self.steps[positions] - self.length) // 2)[:, None]

    def read_train(self, positions: np.ndarray, epoch: int, views: SequenceViews) -> np.ndarray:
        """float32 [B, V, 1, length]"""
        index, steps = torch.from_numpy(positions), torch.from_numpy(self.steps[positions])
        drawn = [views.crop_starts(view, index, epoch, steps, self.length).numpy() for view in range(len(views))]
        return np.stack([self._cut(self.starts[positions] + start) for start in drawn], axis=1)[:, :, None]

    def _cut(self, starts: np.ndarray) -> np.ndarray:
        return np.stack([self.samples[start : start + self.length] for start in starts])


class AudioFolder(SequenceSource):
    """A folder of recordings in class folders, such as speakers or words, or unlabelled; splits as of images.

    Each file is decoded once: the mean of its channels, resampled to `rate` by scipy's polyphase filter, kept as float32 in
    a cache whose name changes when any file does (4 bytes a sample: 230 MB an hour at 16 kHz).

    Args:
        root: holds the split folders, the class folders, or the files.
        rate: samples a second that all are resampled to.
        length: samples of a crop; a recording that is shorter is a bad file.
        labels: "auto": the folders' names. "none", or a CSV file: see ImageFolder.
        on_bad_file: "error" names the first file that is empty, too short, or cannot be read. "skip" leaves them out and
            lists them in `skipped_files`.
        cache_dir: where the cache goes; None: <root>/.kindred.
        scaling: see SequenceSource.

    Raises:
        ConfigError: naming the key, the path and what is expected there.
    """

    name = "audiofolder"

    def __init__(
        self,
        root: str,
        rate: Count = 16_000,
        length: Count = 20_480,
        labels: str = "auto",
        on_bad_file: Literal["error", "skip"] = "error",
        cache_dir: str | None = None,
        scaling: str | None = None,
    ) -> None:
        super().__init__(scaling)
        if labels not in ("auto", "none") and not labels.endswith(".csv"):
            raise ConfigError(
                f"data.source.labels is {labels!r}: choose auto, none, or a file below data.source.root that ends in .csv"
            )
        self.root, self.rate, self.length, self.labels = root, rate, length, labels
        self.skip = on_bad_file == "skip"
        self.cache_dir = Path(cache_dir) if cache_dir else Path(root) / ".kindred"
        self.class_names: list[str] = []
        self._bad: dict[str, list[tuple[str, str]]] = {}  # split -> paths below the root, and why

    def prepare(self) -> None:
        for split in self._listings:
            build_once(self._folder(split), partial(self._build, split), key="data.source.cache_dir")
            self.load(split)

    def load(self, split: str) -> Crops | None:
        if split not in self._listings:
            if split == "test":
                raise NoTestError(
                    f"data.source.root: {os.path.abspath(self.root)} has no test recordings; {RECORDINGS.layout}. "
                    "Without a test/ folder only val recordings (data.val_size above 0) can judge"
                )
            return None
        listing = self._listings[split]
        self.class_names = next((one.class_names for one in self._listings.values() if one.class_names), [])
        folder = self._folder(split)
        faults = json.loads((folder / "bad.json").read_text(encoding="utf-8"))
        bad = {int(position): reason for position, reason in faults.items()}
        steps = np.load(folder / "steps.npy")
        for position in np.flatnonzero(steps < self.length).tolist():
            bad.setdefault(position, self._too_short(int(steps[position])))
        if bad and not self.skip:
            position = min(bad)
            raise ConfigError(f"{self._place(split, position)} {bad[position]}; remove it, or set {RECORDINGS.on_bad}")
        if len(bad) == len(steps):
            raise ConfigError(
                f"data.source.root: none of the {len(steps)} recordings in {listing.folder} can be used; "
                f"{self._place(split, 0)} {bad[0]}"
            )
        self._bad[split] = [(self._below(split, name), reason) for name, reason in listing.skipped] + [
            (self._below(split, os.fsdecode(listing.names[position])), bad[position]) for position in sorted(bad)
        ]
        kept = np.delete(np.arange(len(steps)), list(bad))
        samples = np.asarray(np.memmap(folder / "samples.bin", "<f4", "r"))
        return Crops(samples, (np.cumsum(steps) - steps)[kept], steps[kept], listing.labels[kept], self.length)

    @property
    def skipped_files(self) -> list[tuple[str, str]]:
        """What was left out of the splits loaded so far: paths below the root, and why."""
        return [entry for bad in self._bad.values() for entry in bad]

    @property
    def skipped(self) -> int:
        return len(self.skipped_files)

    def inventory(self, split: str) -> Files | None:
        """The files of `split`."""
        if (listing := self._listings.get(split)) is None:
            return None
        return Files(listing.folder, listing.names, listing.sizes, listing.times)

    @cached_property
    def _listings(self) -> dict[str, Listing]:
        return list_splits(self.root, self.labels, RECORDINGS, skip=self.skip)

    def _place(self, split: str, position: int) -> str:
        listing = self._listings[split]
        return f"{listing.folder}/{os.fsdecode(listing.names[position])}"

    def _below(self, split: str, name: str) -> str:
        return os.path.normpath(os.path.join(os.path.relpath(self._listings[split].folder, self.root), name))

    def _too_short(self, steps: int) -> str:
        if not steps:
            return "has no samples"
        return f"has {steps} samples at {self.rate} a second, and a crop is of data.length={self.length}"

    def _folder(self, split: str) -> Path:
        """<cache>/<split>-<rate>-<key>: samples.bin, steps.npy (0 for a bad file) and bad.json (position -> reason)."""
        return self.cache_dir / f"{split}-{self.rate}hz-v{VERSION}-{self._listings[split].fingerprint[:20]}"

    def _build(self, split: str, folder: Path) -> None:
        count = len(self._listings[split].names)
        steps, bad = np.zeros(count, dtype=np.int64), {}
        with open(folder / "samples.bin", "wb") as file:
            for position in range(count):
                place = self._place(split, position)
                try:
                    samples = decode(place, self.rate)
                except ConfigError:  # of the package, not of the file
                    raise
                except ValueError as error:
                    bad[position] = str(error)
                    if not self.skip:
                        raise ConfigError(f"{place} {error}; remove it, or set {RECORDINGS.on_bad}") from error
                else:
                    file.write(samples.astype("<f4").tobytes())
                    steps[position] = len(samples)
            if not steps.any():
                file.write(bytes(4))  # for nothing can be mapped of nothing; load() says that all are bad
        np.save(folder / "steps.npy", steps)
        (folder / "bad.json").write_text(json.dumps(bad), encoding="utf-8")


def decode(path: str, rate: int) -> np.ndarray:
    """The samples of a file, float32 in about [-1, 1]: the mean of its channels at `rate` a second.

    Raises:
        ConfigError: there is no package soundfile.
        ValueError: what is wrong with the file, in words that follow its path.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: it is there, and its library is not
        raise ConfigError(
            "data=audiofolder needs the package soundfile: make setup, or pip install kindred[audio]"
        ) from error
    try:
        read, own = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"Error opening {path!r}: ").rstrip(".")
        raise ValueError(f"cannot be read ({reason})") from error
    if not len(read):
        raise ValueError("has no samples")
    samples = read.mean(axis=1, dtype=np.float64)
    if not np.isfinite(samples).all():
        raise ValueError("has samples that are not finite")
    if own != rate:
        from scipy.signal import resample_poly

        common = math.gcd(own, rate)
        samples = resample_poly(samples, rate // common, own // common)
    return samples.astype(np.float32)
