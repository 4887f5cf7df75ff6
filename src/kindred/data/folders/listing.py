"""The files of one split: names, classes and a fingerprint, quickly for a million of them."""

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from kindred.errors import ConfigError

SPECIAL = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"))


class Kind(NamedTuple):
    """What the files are, and what errors call them."""

    one: str
    extensions: tuple[str, ...]  # in lower case
    on_bad: str  # what leaves out those that cannot be read

    @property
    def several(self) -> str:
        return f"{self.one}s"

    @property
    def layout(self) -> str:
        """What is expected of a root."""
        return (
            f"expected <root>/train/<class>/<{self.one}>, and optionally val/ and test/ with the same classes; or, without "
            f"labels, <root>/<{self.one}>"
        )


IMAGES = Kind(
    "image",
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    "data.source.on_bad_image=skip",
)
RECORDINGS = Kind("recording", (".wav", ".flac", ".ogg"), "data.source.on_bad_file=skip")


class Listing(NamedTuple):
    folder: str
    class_names: list[str]  # empty: no labels
    names: np.ndarray  # bytes [N]: paths below the folder; a folder's files sorted, then its folders
    labels: np.ndarray  # int64 [N], -1: unlabelled
    sizes: np.ndarray  # int64 [N], in bytes
    times: np.ndarray  # int64 [N], of the last modification, in nanoseconds
    fingerprint: str  # changes when a file's name, size or modification time does
    skipped: list[tuple[str, str]]  # paths below the folder of what cannot be read, and why


class _Found(NamedTuple):
    """What one folder holds; paths are below the split's folder."""

    files: list[tuple[str, int, int]]  # path, size, modification time, sorted
    folders: list[str]  # paths, sorted
    unusable: list[tuple[str, str]]  # path and reason


def list_files(
    folder: str,
    kind: Kind,
    layout: Literal["classes", "flat", "either"] = "classes",
    skip: bool = False,
    otherwise: str = "",
) -> Listing:
    """The files of a kind in `folder`; hidden files and folders are left out.

    Args:
        kind: which files they are.
        layout: "classes": they lie in <folder>/<class>/. "flat": anywhere below, and folders mean nothing. "either": in
            classes, or all in the folder itself and unlabelled.
        skip: leave out what is no file that can be read; else only what would never end, pipes and devices.
        otherwise: what to set where folders are no classes, for errors.

    Raises:
        ConfigError: naming data.source.root and the path: no such folder, no files, files where none are expected.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(folder)}; {kind.layout}")
    where = f"data.source.root: {os.path.abspath(folder)}"
    top, stamp = _look(folder, "", kind, skip), hashlib.sha256()
    names, labels, stats, skipped, empty, deeper = [], [], [], list(top.unusable), [], []

    def take(several: list[tuple[str, int, int]], label: int) -> None:
        if several:
            stamp.update(repr(several).encode("utf-8", "surrogateescape"))
        names.extend(os.fsencode(path) for path, *_ in several)
        labels.extend([label] * len(several))
        stats.extend(status for _, *status in several)

    if layout == "flat":
        for files in _below(folder, top, kind, skip):
            take(files.files, -1)
            skipped += files.unusable if files is not top else []
    else:
        for label, name in enumerate(top.folders):
            files = _look(folder, name, kind, skip)
            take(files.files, label)
            skipped += files.unusable
            empty += [] if files.files or files.unusable else [name]
            deeper += [path for below in _below(folder, files, kind, skip) for path, *_ in below.files][
                len(files.files) :
            ]
    classes = top.folders if labels and layout != "flat" else []
    if layout != "flat":
        if deeper:
            raise ConfigError(
                f"{where} holds {len(deeper)} {kind.several} deeper than <class>/<{kind.one}>, such as {deeper[0]}: bring "
                f"them up to their class's folder{otherwise}"
            )
        if labels and top.files:
            raise ConfigError(
                f"{where} holds {len(top.files)} {kind.several} beside its class folders, such as {top.files[0][0]}: move "
                f"them into a class or away{otherwise}"
            )
        if layout == "either" and not labels:
            take(top.files, -1)
        elif not top.folders:
            raise ConfigError(f"{where} has no class folders; {kind.layout}")
        elif empty:
            raise ConfigError(
                f"{where}/{empty[0]} has no {kind.several} ({', '.join(kind.extensions)}); remove the folder or fill "
                f"it; {kind.layout}"
            )
    if not names:
        if skipped:
            raise ConfigError(f"{where}: none of the {len(skipped)} {kind.several} can be read; {' '.join(skipped[0])}")
        raise ConfigError(f"{where} has no {kind.several} ({', '.join(kind.extensions)}); {kind.layout}")
    sizes, times = np.array(stats, dtype=np.int64).T
    rows = np.array(names), np.array(labels, dtype=np.int64), sizes, times
    return Listing(folder, classes, *rows, stamp.hexdigest(), skipped)


def _below(folder: str, files: _Found, kind: Kind, skip: bool) -> Iterator[_Found]:
    """`files`, and what lies in their folders and in theirs."""
    yield files
    for path in files.folders:
        yield from _below(folder, _look(folder, path, kind, skip), kind, skip)


def _look(folder: str, path: str, kind: Kind, skip: bool) -> _Found:
    """What lies in folder/path."""
    found, place = _Found([], [], []), os.path.join(folder, path)
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
            elif entry.name.lower().endswith(kind.extensions):
                try:
                    status = entry.stat()
                except OSError as error:
                    reason = "is a link to nowhere" if entry.is_symlink() else f"cannot be read ({error.strerror})"
                    if not skip:
                        raise ConfigError(
                            f"data.source.root: {os.path.abspath(entry.path)} {reason}; remove it, or set {kind.on_bad}"
                        ) from error
                    found.unusable.append((name, reason))
                    continue
                special = next((special for is_one, special in SPECIAL if is_one(status.st_mode)), None)
                if special:
                    found.unusable.append((name, f"is a {special}"))
                else:
                    found.files.append((name, status.st_size, status.st_mtime_ns))
    for part in found:
        part.sort()
    return found
