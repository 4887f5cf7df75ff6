"""Data sets of Hugging Face's, decoded once into a cache, or streamed."""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from kindred.data.cache import build_once, open_array
from kindred.data.images.decoded import VERSION, hint, lay_out
from kindred.data.images.folder import IMAGENET_MEAN, IMAGENET_STD
from kindred.data.images.formats.decoding import Reading
from kindred.data.images.formats.parallel import keep_rows
from kindred.data.images.huggingface.rows import Chunks, Decoded, Rows, TableImages
from kindred.data.images.huggingface.tables import Tables
from kindred.data.inventory import Files, look_up
from kindred.data.source import ArrayExamples, NoTestError
from kindred.errors import ConfigError
from kindred.values import Count

SEVERAL = 16  # chunks that are worth starting processes


class HuggingFace:
    """A data set of Hugging Face's: a folder of parquet files, what `save_to_disk` wrote, or a name on the hub.

    Images are decoded once, as those of a folder are (`kindred.data.images.folder`): shorter side resized, central square,
    into a memory-mapped uint8 array. With `stream` they stay in the table, and the loader's workers decode and crop them.

    Args:
        path: a folder, a file, or a name such as `uoft-cs/cifar10`, which is downloaded once where there is a network.
        image_size: of evaluation images and, unless streaming, of the stored ones, in pixels.
        image: the column with the images: an Image feature, files as bytes, or their paths.
        label: the column with the labels: a ClassLabel, whole numbers (below 0: none) or texts; null: there are none.
        channels: 3 (converted to RGB) or 1 (grey).
        subset: where a name has several, such as languages.
        revision: of a name on the hub; a commit never changes.
        train, val, test, bank: the names of the splits. val: by default validation, valid, val or dev, if there is one, else
            it is cut from train. bank: labelled examples, where those of train are not.
        stream: for images too large to hold decoded.
        cache_dir: where decoded images go.
        on_bad_image: "error" names the first row that cannot be decoded, "skip" leaves such rows out and counts them.
        mean, std: per channel, of pixels in [0, 1]; ImageNet's by default.

    Raises:
        ValueError, OSError: naming the key, its value and what would be right.
    """

    name = "huggingface"

    def __init__(
        self,
        path: str,
        image_size: Count,
        image: str = "image",
        label: str | None = "label",
        channels: int = 3,
        subset: str | None = None,
        revision: str | None = None,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        bank: str | None = None,
        stream: bool = False,
        cache_dir: str = "data/huggingface",
        on_bad_image: Literal["error", "skip"] = "error",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        if importlib.util.find_spec("datasets") is None:
            raise ConfigError(
                "data=huggingface needs the package datasets: make setup, or pip install kindred[huggingface]"
            )
        if channels not in (1, 3):
            raise ConfigError(f"data.channels is {channels}: image files are read as 3 (colour) or 1 (grey)")
        if os.path.isdir(path) and Path(cache_dir).resolve().is_relative_to(Path(path).resolve()):
            raise ConfigError(
                f"data.source.cache_dir: {cache_dir} lies in data.source.path={path}, and would be taken for data; choose "
                "another"
            )
        self.path, self.image, self.label, self.subset, self.revision = path, image, label, subset, revision
        self.image_size, self.channels, self.stream = image_size, channels, stream
        self.wanted = {"train": train, "val": val, "test": test, "bank": bank}
        place = os.path.abspath(path) if os.path.exists(path) else path
        key = hashlib.sha256(os.fsencode(f"{place} {subset} {image}")).hexdigest()[:8]
        self.cache_dir = Path(cache_dir) / f"{Path(place).name}-{key}"
        self.on_bad_image, self.mean, self.std = on_bad_image, tuple(mean), tuple(std)
        self._bad: dict[str, dict[int, str]] = {}

    def prepare(self) -> None:
        for split in self._tables.names:
            if self._needs_cache:
                self._cache(split)

    def load(self, split: str) -> ArrayExamples | TableImages | None:
        if split not in self._tables.names:
            if split == "test":
                raise NoTestError(
                    f"data.source.test: {self.path} has no split test, but {', '.join(self._tables.there)}: name the one "
                    "that judges, or monitor on val images only (data.val_size above 0)"
                )
            return None
        labels = self._tables.labels(split)
        kept = np.arange(len(labels))
        if self._needs_cache:
            folder = self._cache(split)
            bad = {int(position): reason for position, reason in json.loads((folder / "bad.json").read_text()).items()}
            if bad and self.on_bad_image == "error":  # the cache was written by a run that skipped them
                raise ConfigError(f"{next(iter(bad.values()))}{hint(len(bad))}")
            self._bad[split] = bad
            kept = np.delete(kept, list(bad))
            if not self.stream:
                return ArrayExamples(open_array(folder / "images.npy")[: len(kept)], labels[kept])
        rows = self._tables.rows(split, kept)
        return TableImages(rows.place, cast(Any, rows), labels[kept], self.image_size, Reading(self.channels))

    def inventory(self, split: str) -> Files | None:
        """The files that the table of `split` is read from; they may be those of other splits too."""
        return look_up(*self._tables.files(split)) if split in self._tables.names else None

    @property
    def class_names(self) -> list[str]:
        return self._tables.class_names

    @property
    def skipped_files(self) -> list[tuple[str, str]]:
        """Rows that were left out of the splits loaded so far, and why."""
        return [
            (f"{self._tables.names[split]}, row {position}", reason)
            for split, bad in self._bad.items()
            for position, reason in bad.items()
        ]

    @property
    def skipped(self) -> int:
        return len(self.skipped_files)

    @property
    def _needs_cache(self) -> bool:
        return not self.stream or self.on_bad_image == "skip"

    @cached_property
    def _tables(self) -> Tables:
        return Tables(self.path, self.image, self.label, self.subset, self.revision, self.wanted)

    def _cache(self, split: str) -> Path:
        """<cache>/<split>-<what>-<key>, complete: bad.json (position -> reason) and, unless streaming, images.npy."""
        what = f"{split}-{'checked' if self.stream else f'{self.image_size}px'}-{self.channels}ch"
        folder = self.cache_dir / f"{what}-v{VERSION}-{self._tables.fingerprint(split)}"
        build_once(folder, partial(self._build, split), key="data.source.cache_dir")
        for other in self.cache_dir.glob(f"{what}-*"):  # of a table that has changed since
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return folder

    def _build(self, split: str, folder: Path) -> None:
        rows = self._tables.rows(split)
        shape = (len(rows), self.channels, self.image_size, self.image_size)
        images, bad = None, {}
        if not self.stream:
            smaller = "data.image_size to a smaller number, or data.source.stream=true"
            images = np.load(lay_out(folder, self.cache_dir, shape, smaller), mmap_mode="r+")
        for part in self._decoded(rows, None if self.stream else self.image_size):
            bad |= part.bad
            if bad and self.on_bad_image == "error":
                raise ConfigError(f"{next(iter(bad.values()))}{hint(1)}")
            if images is not None:
                images[part.first : part.first + len(part.images)] = part.images
        if len(bad) == len(rows):
            raise ConfigError(
                f"data.source.image: none of the {len(rows)} images of {rows.place} can be decoded: {bad[0]}"
            )
        if images is not None:
            images.flush()
            if bad:
                keep_rows(folder / "images.npy", np.delete(np.arange(len(rows)), list(bad)))
        (folder / "bad.json").write_text(json.dumps(bad))

    def _decoded(self, rows: Rows, size: int | None) -> Iterable[Decoded]:
        """The chunks in order, in all CPUs."""
        chunks = Chunks(rows, size, Reading(self.channels))
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cpus <= 1 or len(chunks) < SEVERAL:
            return (chunks[number] for number in range(len(chunks)))

        import torch
        from rich.console import Console
        from rich.progress import track
        from torch.utils.data import DataLoader

        # A generator of its own: a pass draws a seed for the workers, and the global stream is the training's.
        own = torch.Generator()
        loader = DataLoader(cast(Any, chunks), batch_size=None, num_workers=cpus, collate_fn=_as_it_is, generator=own)
        said = f"{'checking' if size is None else 'decoding'} {rows.place}"
        return track(loader, said, len(chunks), console=Console(stderr=True))


def _as_it_is(chunk: Any) -> Any:
    return chunk
