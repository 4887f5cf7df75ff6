"""The files that examples are read from: what tells data from other data, without reading them.

Imports no torch.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Files(NamedTuple):
    """The files of a split, in the order of their names."""

    folder: str
    names: np.ndarray  # bytes [N], below the folder
    sizes: np.ndarray  # int64 [N], in bytes
    times: np.ndarray  # int64 [N], of the last modification, in nanoseconds


def look_up(folder: str | Path, names: Iterable[str]) -> Files:
    """`names` below `folder`, those that are there.

    Args:
        folder: that holds them.
        names: paths below it.
    """
    found = {name: path.stat() for name in sorted(names) if (path := Path(folder, name)).is_file()}
    sizes, times = ([getattr(status, of) for status in found.values()] for of in ("st_size", "st_mtime_ns"))
    encoded = np.array([os.fsencode(name) for name in found], dtype=bytes)
    return Files(str(folder), encoded, np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64))
