"""The images of one split: names, classes and a fingerprint, quickly for a million files."""

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from kindred.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LAYOUT = (
    "expected <root>/train/<class>/<image>, and optionally val/ and test/ with the same classes; or, without labels, "
    "<root>/<image>"
)
KINDS = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"))


class Listing(NamedTuple):
    folder: str
    class_names: list[str]  # empty: no labels
    names: np.ndarray  # bytes [N]: paths below the folder; a folder's files sorted, then its folders
    labels: np.ndarray  # int64 [N], -1: unlabelled
    sizes: np.ndarray  # int64 [N], in bytes
    times: np.ndarray  # int64 [N], of the last modification, in nanoseconds
    fingerprint: str  # changes when a file's name, size or modification time does
    skipped: list[tuple[str, str]]  # paths below the folder of what cannot be an image, and why


class _Files(NamedTuple):
    """What one folder holds; paths are below the split's folder."""

    images: list[tuple[str, int, int]]  # path, size, modification time, sorted
    folders: list[str]  # paths, sorted
    unusable: list[tuple[str, str]]  # path and reason


def list_images(
    folder: str,
    layout: Literal["classes", "flat", "either"] = "classes",
    extensions: tuple[str, ...] = EXTENSIONS,
    skip: bool = False,
    otherwise: str = "",
) -> Listing:
    """The images in `folder`; hidden files and folders are left out.

    Args:
        layout: "classes": they lie in <folder>/<class>/. "flat": anywhere below, and folders mean nothing. "either": in
            classes, or all in the folder itself and unlabelled.
        extensions: of image files, in lower case.
        skip: leave out what is no file that can be read; else only what would never end, pipes and devices.
        otherwise: what to set where folders are no classes, for errors.

    Raises:
        ConfigError: naming data.source.root and the path: no such folder, no images, images where none are expected.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(folder)}; {LAYOUT}")
    where = f"data.source.root: {os.path.abspath(folder)}"
    top, stamp = _look(folder, "", extensions, skip), hashlib.sha256()
    names, labels, stats, skipped, empty, deeper = [], [], [], list(top.unusable), [], []

    def take(images: list[tuple[str, int, int]], label: int) -> None:
        if images:
            stamp.update(repr(images).encode("utf-8", "surrogateescape"))
        names.extend(os.fsencode(path) for path, *_ in images)
        labels.extend([label] * len(images))
        stats.extend(status for _, *status in images)

    if layout == "flat":
        for files in _below(folder, top, extensions, skip):
            take(files.images, -1)
            skipped += files.unusable if files is not top else []
    else:
        for label, name in enumerate(top.folders):
            files = _look(folder, name, extensions, skip)
            take(files.images, label)
            skipped += files.unusable
            empty += [] if files.images or files.unusable else [name]
            deeper += [path for below in _below(folder, files, extensions, skip) for path, *_ in below.images][
                len(files.images) :
            ]
    classes = top.folders if labels and layout != "flat" else []
    if layout != "flat":
        if deeper:
            raise ConfigError(
                f"{where} holds {len(deeper)} images deeper than <class>/<image>, such as {deeper[0]}: bring them up to "
                f"their class's folder{otherwise}"
            )
        if labels and top.images:
            raise ConfigError(
                f"{where} holds {len(top.images)} images beside its class folders, such as {top.images[0][0]}: move them "
                f"into a class or away{otherwise}"
            )
        if layout == "either" and not labels:
            take(top.images, -1)
        elif not top.folders:
            raise ConfigError(f"{where} has no class folders; {LAYOUT}")
        elif empty:
            raise ConfigError(
                f"{where}/{empty[0]} has no images ({', '.join(extensions)}); remove the folder or fill it; {LAYOUT}"
            )
    if not names:
        if skipped:
            raise ConfigError(f"{where}: none of the {len(skipped)} images can be read; {' '.join(skipped[0])}")
        raise ConfigError(f"{where} has no images ({', '.join(extensions)}); {LAYOUT}")
    sizes, times = np.array(stats, dtype=np.int64).T
    rows = np.array(names), np.array(labels, dtype=np.int64), sizes, times
    return Listing(folder, classes, *rows, stamp.hexdigest(), skipped)


def _below(folder: str, files: _Files, extensions: tuple[str, ...], skip: bool) -> Iterator[_Files]:
    """`files`, and what lies in their folders and in theirs."""
    yield files
    for path in files.folders:
        yield from _below(folder, _look(folder, path, extensions, skip), extensions, skip)


def _look(folder: str, path: str, extensions: tuple[str, ...], skip: bool) -> _Files:
    """What lies in folder/path."""
    found, place = _Files([], [], []), os.path.join(folder, path)
    try:
        entries = os.scandir(place)
    except OSError as error:
        raise ConfigError(f"data.source.root: {os.path.abspath(place)} cannot be read ({error.strerror})") from error
    with entries:
        entries = list(entries)
        if {"config.yaml", "metrics.csv"} <= {entry.name for entry in entries}:
            return found  # a run's, whose figures are no images to train on
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{path}/{entry.name}" if path else entry.name
            # Of a link to itself is_dir() fails.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                # Into a folder that a link leads back to one would go for ever.
                if entry.is_symlink() and f"{os.path.realpath(place)}/".startswith(f"{os.path.realpath(entry.path)}/"):
                    found.unusable.append((name, "is a link to a folder that it lies in"))
                else:
                    found.folders.append(name)
            elif entry.name.lower().endswith(extensions):
                try:
                    status = entry.stat()
                except OSError as error:
                    reason = "is a link to nowhere" if entry.is_symlink() else f"cannot be read ({error.strerror})"
                    if not skip:
                        raise ConfigError(
                            f"data.source.root: {os.path.abspath(entry.path)} {reason}; remove it, or set "
                            "data.source.on_bad_image=skip"
                        ) from error
                    found.unusable.append((name, reason))
                    continue
                kind = next((kind for is_one, kind in KINDS if is_one(status.st_mode)), None)
                if kind:
                    found.unusable.append((name, f"is a {kind}"))
                else:
                    found.images.append((name, status.st_size, status.st_mtime_ns))
    for part in found:
        part.sort()
    return found
