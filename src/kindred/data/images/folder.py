"""Your own images: root/<split>/<class>/*.jpg|png|..., or without labels, decoded once into a cache, or streamed."""

import hashlib
import json
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from kindred.data.cache import open_array
from kindred.data.folders.layout import list_splits
from kindred.data.folders.listing import IMAGES, Listing
from kindred.data.images.decoded import DecodedImages, hint, say_several
from kindred.data.images.files import ImageFiles
from kindred.data.images.formats.decoding import Reading, decode
from kindred.data.images.formats.scale import UnfitError
from kindred.data.inventory import Files
from kindred.data.source import ArrayExamples, NoTestError
from kindred.errors import ConfigError
from kindred.values import Count

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRIED = 8  # files of a split that is streamed
Level = Annotated[int, Ge(0), Le(255)]


class PackedImages(ArrayExamples):
    """uint8 [N, C, S, S] with room for training's crops: evaluation reads 7/8 of each side, as at 224 of 256 pixels."""

    def read(self, positions: np.ndarray) -> np.ndarray:
        margin = self.array.shape[-1] // 16
        inner = slice(margin, self.array.shape[-1] - margin)
        return np.ascontiguousarray(super().read(positions)[:, :, inner, inner])


class ImageFolder:
    """A folder of images; split folders are named train, val, test and bank (all but train optional).

    Labels are the folders in a split's folder. A train folder of images without class folders has none, and so has a root
    of images without split folders; then bank/ and val/, where they are, hold the labelled images that judge: bank/ those
    that answer, val/ those that are asked. Of val/ alone the DataModule cuts both.

    Images are decoded once, in parallel: shorter side resized, central square, into a memory-mapped uint8 array whose name
    changes when any file does. With `stream` nothing is stored: the loader's workers decode, and crop the whole image.

    `pack` is for large images that fit a disk. It stores squares larger than `image_size`, which leaves room for
    training's crops, and reading them is a copy. Evaluation looks at the central 7/8 of each side: with 256 and an
    `image_size` of 224, at the very pixels that streaming shows it. Training's crops differ: the ends of the longer side
    are lost to them (a quarter of a 4:3 photograph), and small crops are enlarged from fewer pixels.

    A file becomes pixels of 8 bits a channel: turned as its EXIF says, the first picture of several, transparent parts over
    `background`. Integers of more bits are scaled from the ends of their type, floats only from `range`.

    Args:
        root: holds the split folders, or the images.
        image_size: of evaluation images, in pixels; without `pack` also of the stored squares.
        channels: 3 (converted to RGB) or 1 (grey); any other number is read from .npy files, [C, H, W] or [H, W, C].
        stream: for images too large to hold decoded; has no say when `pack` is given.
        pack: side of the stored squares in pixels, at least `image_size`.
        cache_dir: where the cache goes; None: <root>/.kindred.
        on_bad_image: "error" names the first file that cannot be decoded. "skip" leaves such files out and lists them
            in `skipped_files`; when streaming, every file is read once for that before the first run, and the list of bad
            ones kept in `cache_dir`: finding them during training would make the order of the images depend on luck.
            Pipes and devices are always left out.
        mean, std: per channel, of pixels in [0, 1]; ImageNet's by default.
        labels: "auto": as above. "none": train images have none, whatever folders they lie in. Or the path below `root` of
            a CSV file with the columns path (below `root`) and label (empty: none), for all splits.
        range: values in the files that become black and white.
        background: RGB, from 0 to 255.

    Raises:
        ValueError, OSError: naming the key, the path and what is expected there.
    """

    name = "imagefolder"

    def __init__(
        self,
        root: str,
        image_size: Count,
        channels: Count = 3,
        stream: bool = False,
        pack: Count | None = None,
        cache_dir: str | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        labels: str = "auto",
        range: tuple[float, float] | None = None,
        background: tuple[Level, Level, Level] = (255, 255, 255),
    ):
        if on_bad_image not in ("error", "skip"):
            raise ConfigError(f'data.source.on_bad_image is {on_bad_image!r}: choose "error" or "skip"')
        if labels not in ("auto", "none") and not labels.endswith(".csv"):
            raise ConfigError(
                f"data.source.labels is {labels!r}: choose auto, none, or a file below data.source.root that ends in .csv"
            )
        if range is not None and not range[0] < range[1]:
            raise ConfigError(
                f"data.source.range is [{range[0]:g},{range[1]:g}]: give the value that becomes black and a larger one that "
                "becomes white"
            )
        if pack is not None and (not isinstance(pack, int) or pack < image_size):
            raise ConfigError(
                f"data.source.pack is {pack!r}: give a number of pixels from data.image_size={image_size} up, "
                f"for example {round(image_size * 256 / 224)}, or null"
            )
        self.root, self.image_size, self.pack, self.labels = str(root), image_size, pack, labels
        self.reading = Reading(channels, None if range is None else tuple(range), tuple(background))
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
        self._bad: dict[str, dict[str, str]] = {}  # split -> path below its folder -> reason

    def prepare(self) -> None:
        for split in self._listings:
            if self._needs_cache:
                self._decoded.of(split, self._list(split))
            else:
                self._try_some(split)
        self._say_what_is_labelled()

    def load(self, split: str) -> ArrayExamples | ImageFiles | None:
        if split not in self._listings:
            if split == "test":
                raise NoTestError(
                    f"data.source.root: {os.path.abspath(self.root)} has no test images; {IMAGES.layout}. "
                    "Without a test/ folder only val images (data.val_size above 0) can judge"
                )
            return None
        listing = self._list(split)
        self.class_names = next((one.class_names for one in self._listings.values() if one.class_names), [])
        self._bad[split] = dict(listing.skipped)
        names, labels = listing.names, listing.labels
        if self._needs_cache:
            folder = self._decoded.of(split, listing)
            bad = {int(position): reason for position, reason in json.loads((folder / "bad.json").read_text()).items()}
            if bad and self.on_bad_image == "error":  # the cache was written by a run that skipped them
                position, reason = next(iter(bad.items()))
                raise ConfigError(f"{listing.folder}/{os.fsdecode(names[position])} {reason}{hint(len(bad))}")
            self._bad[split] |= {os.fsdecode(names[position]): reason for position, reason in bad.items()}
            kept = np.delete(np.arange(len(names)), list(bad))
            names, labels = names[kept], labels[kept]
            if not self.stream:
                images = open_array(folder / "images.npy")[: len(kept)]
                return (PackedImages if self.pack else ArrayExamples)(images, labels)
        return ImageFiles(listing.folder, names, labels, self.image_size, self.reading)

    @property
    def skipped_files(self) -> list[tuple[str, str]]:
        """What was left out of the splits loaded so far: paths below the root, and why."""
        folders = {split: os.path.relpath(self._list(split).folder, self.root) for split in self._bad}
        return [
            (os.path.normpath(os.path.join(folders[split], path)), reason)
            for split, bad in self._bad.items()
            for path, reason in bad.items()
        ]

    def inventory(self, split: str) -> Files | None:
        """The image files of `split`."""
        if split not in self._listings:
            return None
        listing = self._list(split)
        return Files(listing.folder, listing.names, listing.sizes, listing.times)

    @property
    def skipped(self) -> int:
        return len(self.skipped_files)

    @property
    def _decoded(self) -> DecodedImages:
        less = (
            "or data.source.pack to a smaller number or null"
            if self.pack
            else "data.image_size to a smaller number, or data.source.stream=true"
        )
        size = None if self.stream else self.stored_size
        return DecodedImages(self.cache_dir, self.reading, size, self.on_bad_image == "error", less)

    @property
    def _needs_cache(self) -> bool:
        return not self.stream or self.on_bad_image == "skip"

    @cached_property
    def _listings(self) -> dict[str, Listing]:
        kind = IMAGES if self.reading.channels in (1, 3) else IMAGES._replace(extensions=(".npy",))
        return list_splits(self.root, self.labels, kind, skip=self.on_bad_image == "skip")

    def _list(self, split: str) -> Listing:
        return self._listings[split]

    def _say_what_is_labelled(self) -> None:
        """Where it is not what a look at the configuration tells."""
        train = self._list("train")
        where, known = os.path.abspath(train.folder), int((train.labels >= 0).sum())
        judged = " (those that judge do)" if "bank" in self._listings else ", so no accuracy is logged"
        if not known:
            said = f"the {len(train.names)} images in {where} have no labels{judged}"
        elif self.labels not in ("auto", "none"):
            said = f"{known} of the {len(train.names)} images in {where} have labels"
        elif len(train.class_names) == 1 and "bank" not in self._listings:
            said = f"all images in {where} are of one class, {train.class_names[0]}, so no accuracy is logged"
        else:
            return
        print(f"data.source.root: {said}", file=sys.stderr)

    def _try_some(self, split: str) -> None:
        """Before a training streams them: what is wrong with all files is wrong with any."""
        listing = self._list(split)
        several = []
        for position in np.unique(np.linspace(0, len(listing.names) - 1, TRIED).astype(int)):
            path = f"{listing.folder}/{os.fsdecode(listing.names[position])}"
            try:
                several += [position] if decode(path, self.reading, draft=True).more else []
            except UnfitError as error:
                raise ConfigError(f"{error}{hint(1)}") from error
            except ConfigError:  # one that is damaged is named when it is read
                pass
        say_several(listing, several)
