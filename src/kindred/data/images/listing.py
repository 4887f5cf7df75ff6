"""What lies in root/<split>/<class>/: names, labels and a fingerprint, quickly for a million files."""

import hashlib
import os
from typing import NamedTuple

import numpy as np

from kindred.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LAYOUT = "expected <root>/train/<class>/<image>, and optionally val/ and test/ with the same classes"


class Listing(NamedTuple):
    folder: str
    class_names: list[str]
    names: np.ndarray  # bytes [N]: <class>/<file>, sorted
    labels: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N], in bytes
    times: np.ndarray  # int64 [N], of the last modification, in nanoseconds
    fingerprint: str  # changes when a file's name, size or modification time does


def list_images(folder: str) -> Listing:
    """The images in <folder>/<class>/, classes and files sorted by name; hidden ones are left out.

    Raises:
        ValueError: naming data.source.root and the path: no such folder, no class, or a class without images.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"data.source.root: there is no folder {os.path.abspath(folder)}; {LAYOUT}")
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ConfigError(f"data.source.root: {os.path.abspath(folder)} has no class folders; {LAYOUT}")
    names, labels, stats = [], [], []
    stamp = hashlib.sha256()
    for label, name in enumerate(classes):
        found = []
        with os.scandir(os.path.join(folder, name)) as entries:
            for entry in entries:
                if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                    status = entry.stat()
                    found.append((f"{name}/{entry.name}", status.st_size, status.st_mtime_ns))
        if not found:
            raise ConfigError(
                f"data.source.root: {os.path.abspath(folder)}/{name} has no images ({', '.join(EXTENSIONS)}); "
                f"remove the folder or fill it; {LAYOUT}"
            )
        found.sort()
        stamp.update(repr(found).encode("utf-8", "surrogateescape"))
        names += [os.fsencode(path) for path, *_ in found]
        labels += [label] * len(found)
        stats += [status for _, *status in found]
    sizes, times = np.array(stats, dtype=np.int64).T
    return Listing(folder, classes, np.array(names), np.array(labels, dtype=np.int64), sizes, times, stamp.hexdigest())
