"""The images of a folder decoded once, in parallel, into a cache whose name changes when any file does."""

import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kindred.data.cache import build_once
from kindred.data.folders.listing import Listing
from kindred.data.images.formats.decoding import Reading
from kindred.data.images.formats.parallel import decode_all, keep_rows
from kindred.errors import ConfigError, UnwritableError

VERSION = 2  # of how a file becomes pixels: raise it when that changes


@dataclass(frozen=True)
class DecodedImages:
    """Where decoded images are kept, and how they are made.

    Args:
        place: of the caches.
        reading: how a file becomes pixels.
        size: side of the stored squares in pixels; None: nothing is stored but which files cannot be decoded.
        stop_at_first: a file that cannot be decoded is an error.
        smaller: settings that would need less room, for an error.
    """

    place: Path
    reading: Reading
    size: int | None
    stop_at_first: bool
    smaller: str

    def of(self, split: str, listing: Listing) -> Path:
        """<place>/<split>-<what>-<key>, complete: bad.json (position -> reason) and, with a size, images.npy.

        Raises:
            ConfigError, UnwritableError: a file that cannot be decoded, or none that can; no room.
        """
        what = f"{split}-checked" if self.size is None else f"{split}-{self.size}px"
        what += f"-{self.reading.channels}ch"
        if self.reading.range is not None:
            what += "-range{:g}_{:g}".format(*self.reading.range)
        if self.reading.background != Reading(3).background:
            what += "-on{}_{}_{}".format(*self.reading.background)
        folder = self.place / f"{what}-v{VERSION}-{listing.fingerprint[:20]}"
        build_once(folder, partial(self._build, listing), key="data.source.cache_dir")
        for other in self.place.glob(f"{what}-v*-*"):  # of files that have changed since
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return folder

    def _build(self, listing: Listing, folder: Path) -> None:
        count = len(listing.names)
        images = None
        if self.size is not None:
            shape = (count, self.reading.channels, self.size, self.size)
            images = lay_out(folder, self.place, shape, self.smaller)
        bad, several = decode_all(
            listing.folder, listing.names, images, self.size or 0, self.reading, self.stop_at_first
        )
        if bad and self.stop_at_first:
            raise ConfigError(f"{next(iter(bad.values()))}{hint(1)}")
        if len(bad) == count:
            first = next(iter(bad.values()))
            raise ConfigError(
                f"data.source.root: none of the {count} images in {listing.folder} can be decoded; {first}"
            )
        if bad and images:
            keep_rows(images, np.delete(np.arange(count), list(bad)))
        reasons = {
            position: bad[position].removeprefix(f"{listing.folder}/{os.fsdecode(listing.names[position])} ")
            for position in sorted(bad)
        }
        (folder / "bad.json").write_text(json.dumps(reasons))
        say_several(listing, several)


def lay_out(path: Path, place: Path, shape: tuple[int, ...], smaller: str) -> Path:
    """images.npy in the folder `path`, of `shape` [N, C, H, W], still black.

    Raises:
        UnwritableError: `place`, where the caches are, has no room for it; `smaller` says what would need less.
    """
    needed, free = math.prod(shape), shutil.disk_usage(path).free
    if needed > free:
        raise UnwritableError(
            f"data.source.cache_dir: {shape[0]} decoded images of {shape[-1]} pixels need {needed / 1e9:.1f} GB "
            f"and {place} has {free / 1e9:.1f} GB free; set data.source.cache_dir to a larger place, {smaller}"
        )
    np.lib.format.open_memmap(path / "images.npy", "w+", np.uint8, shape)
    return path / "images.npy"


def say_several(listing: Listing, positions: Sequence[int]) -> None:
    """Of which files, at `positions`, the first picture of several is taken."""
    if positions:
        example = os.fsdecode(listing.names[min(positions)])
        print(
            f"data.source.root: {listing.folder} holds files of several pictures, such as {example}: the first of each "
            "is taken",
            file=sys.stderr,
        )


def hint(bad: int) -> str:
    """What to do about `bad` files that cannot be decoded, of which one has been named."""
    others = f" (nor can {bad - 1} more)" if bad > 1 else ""
    return f"{others}; remove it, or set data.source.on_bad_image=skip"
