"""Your own images: root/<split>/<class>/*.jpg|png|..., decoded once into a cache, or streamed."""

import hashlib
import math
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from kindred.data.cache import build_once, open_array
from kindred.data.images.decoding import decode_all, keep_rows
from kindred.data.images.files import ImageFiles
from kindred.data.images.listing import LAYOUT, Listing, list_images
from kindred.data.inventory import Files
from kindred.data.source import ArrayExamples, NoTestError
from kindred.errors import ConfigError, UnwritableError
from kindred.values import Count

VERSION = 1  # of how a file becomes pixels: raise it when `decoding.centre` changes
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PackedImages(ArrayExamples):
    """uint8 [N, C, S, S] with room for training's crops: evaluation reads 7/8 of each side, as at 224 of 256 pixels."""

    def read(self, positions: np.ndarray) -> np.ndarray:
        margin = self.array.shape[-1] // 16
        inner = slice(margin, self.array.shape[-1] - margin)
        return np.ascontiguousarray(super().read(positions)[:, :, inner, inner])


class ImageFolder:
    """A folder of images; split folders are named train, val and test (the last two optional).

    Images are decoded once, in parallel: shorter side resized, central square, into a memory-mapped uint8 array whose name
    changes when any file does. With `stream` nothing is stored: the loader's workers decode, and crop the whole image.

    `pack` is for large images that fit a disk. It stores squares larger than `image_size`, which leaves room for
    training's crops, and reading them is a copy. Evaluation looks at the central 7/8 of each side: with 256 and an
    `image_size` of 224, at the very pixels that streaming shows it. Training's crops differ: the ends of the longer side
    are lost to them (a quarter of a 4:3 photograph), and small crops are enlarged from fewer pixels.

    Args:
        root: holds the split folders.
        image_size: of evaluation images, in pixels; without `pack` also of the stored squares.
        channels: 3 (converted to RGB) or 1 (grey).
        stream: for images too large to hold decoded; has no say when `pack` is given.
        pack: side of the stored squares in pixels, at least `image_size`.
        cache_dir: where the cache goes; None: <root>/.kindred.
        on_bad_image: "error" names the first file that cannot be decoded. "skip" leaves such files out and counts them
            in `skipped`; when streaming, every file is read once for that before the first run, and the list of bad
            ones kept in `cache_dir`: finding them during training would make the order of the images depend on luck.
        mean, std: per channel, of pixels in [0, 1]; ImageNet's by default.

    Raises:
        ValueError, OSError: naming the key, the path and what is expected there.
    """

    name = "imagefolder"

    def __init__(
        self,
        root: str,
        image_size: Count,
        channels: int = 3,
        stream: bool = False,
        pack: Count | None = None,
        cache_dir: str | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        if on_bad_image not in ("error", "skip"):
            raise ConfigError(f'data.source.on_bad_image is {on_bad_image!r}: choose "error" or "skip"')
        if channels not in (1, 3):
            raise ConfigError(f"data.channels is {channels}: image files are read as 3 (colour) or 1 (grey)")
        if pack is not None and (not isinstance(pack, int) or pack < image_size):
            raise ConfigError(
                f"data.source.pack is {pack!r}: give a number of pixels from data.image_size={image_size} up, "
                f"for example {round(image_size * 256 / 224)}, or null"
            )
        self.root, self.image_size, self.channels, self.pack = str(root), image_size, channels, pack
        self.stream = stream and not pack
        self.stored_size = pack or image_size
        self.cache_dir = Path(root) / ".kindred"
        if cache_dir:  # may be shared by several roots
            place = os.path.abspath(root)
            self.cache_dir = (
                Path(cache_dir) / f"{Path(place).name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
            )
        self.on_bad_image, self.mean, self.std = on_bad_image, tuple(mean), tuple(std)
        self.class_names: list[str] = []
        self._skipped: dict[str, int] = {}
        self._listings: dict[str, Listing] = {}

    def prepare(self) -> None:
        for split in self._splits():
            self._list(split)
            if self._needs_cache:
                self._cache(split)

    def load(self, split: str) -> ArrayExamples | ImageFiles | None:
        if split not in self._splits():
            if split == "test":
                raise NoTestError(
                    f"data.source.root: {os.path.abspath(self.root)} has no test images; {LAYOUT}. "
                    "Without a test/ folder only val images (data.val_size above 0) can judge"
                )
            return None
        listing = self._list(split)
        self.class_names = listing.class_names
        if not self._needs_cache:
            return ImageFiles(listing.folder, listing.names, listing.labels, self.image_size, self.channels)
        folder = self._cache(split)
        kept = np.load(folder / "kept.npy")
        if len(kept) < len(listing.names):
            bad = np.delete(listing.names, kept)
            if self.on_bad_image == "error":  # the cache was written by a run that skipped them
                raise ConfigError(f"{listing.folder}/{os.fsdecode(bad[0])} cannot be decoded{_hint(len(bad))}")
            self._skipped[split] = len(bad)
        if self.stream:
            return ImageFiles(listing.folder, listing.names[kept], listing.labels[kept], self.image_size, self.channels)
        images = open_array(folder / "images.npy")[: len(kept)]
        return (PackedImages if self.pack else ArrayExamples)(images, listing.labels[kept])

    def inventory(self, split: str) -> Files | None:
        """The image files of `split`."""
        if split not in self._splits():
            return None
        listing = self._list(split)
        return Files(listing.folder, listing.names, listing.sizes, listing.times)

    @property
    def skipped(self) -> int:
        """Files that cannot be decoded, in the splits loaded so far."""
        return sum(self._skipped.values())

    @property
    def _needs_cache(self) -> bool:
        return not self.stream or self.on_bad_image == "skip"

    def _cache(self, split: str) -> Path:
        """<cache>/<split>-<what>-<key>, complete: kept.npy (positions int64) and, unless streaming, their images.npy."""
        listing = self._list(split)
        what = f"{split}-checked" if self.stream else f"{split}-{self.stored_size}px-{self.channels}ch"
        folder = self.cache_dir / f"{what}-v{VERSION}-{listing.fingerprint[:20]}"
        build_once(folder, partial(self._build, split), key="data.source.cache_dir")
        for other in self.cache_dir.glob(f"{what}-*"):  # of files that have changed since
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return folder

    def _build(self, split: str, folder: Path) -> None:
        listing = self._list(split)
        count = len(listing.names)
        images = None
        if not self.stream:
            images = folder / "images.npy"
            shape = (count, self.channels, self.stored_size, self.stored_size)
            needed, free = math.prod(shape), shutil.disk_usage(folder).free
            if needed > free:
                less = "data.image_size to a smaller number, or data.source.stream=true"
                if self.pack:
                    less = "or data.source.pack to a smaller number or null"
                raise UnwritableError(
                    f"data.source.cache_dir: {count} decoded images of {self.stored_size} pixels need {needed / 1e9:.1f} GB "
                    f"and {self.cache_dir} has {free / 1e9:.1f} GB free; set data.source.cache_dir to a larger place, "
                    f"{less}"
                )
            np.lib.format.open_memmap(images, "w+", np.uint8, shape)
        stop_at_first = self.on_bad_image == "error"
        bad = decode_all(listing.folder, listing.names, images, self.stored_size, self.channels, stop_at_first)
        if bad and stop_at_first:
            raise ConfigError(f"{next(iter(bad.values()))}{_hint(1)}")
        if len(bad) == count:
            raise ConfigError(f"data.source.root: none of the {count} images in {listing.folder} can be decoded")
        kept = np.setdiff1d(np.arange(count), np.array(list(bad), dtype=np.int64))
        if bad and images:
            keep_rows(images, kept)
        np.save(folder / "kept.npy", kept)

    def _splits(self) -> list[str]:
        return ["train", *(split for split in ("val", "test") if os.path.isdir(os.path.join(self.root, split)))]

    def _list(self, split: str) -> Listing:
        if split not in self._listings:
            if not os.path.isdir(self.root):
                raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(self.root)}; {LAYOUT}")
            self._listings[split] = listing = list_images(os.path.join(self.root, split))
            if split != "train" and listing.class_names != (expected := self._list("train").class_names):
                missing, extra = set(expected) - set(listing.class_names), set(listing.class_names) - set(expected)
                raise ConfigError(
                    f"data.source.root: {os.path.abspath(listing.folder)} and its train/ have different class folders: "
                    f"missing {sorted(missing)}, not in train {sorted(extra)}; {LAYOUT}"
                )
        return self._listings[split]


def _hint(bad: int) -> str:
    others = f" (nor can {bad - 1} more)" if bad > 1 else ""
    return f"{others}; remove it, or set data.source.on_bad_image=skip"
