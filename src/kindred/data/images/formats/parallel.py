"""Many image files into one array, in all CPUs."""

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kindred.data.images.formats.decoding import Reading, decode
from kindred.errors import ConfigError


class Decoded(NamedTuple):
    """What was met on the way."""

    bad: dict[int, str]  # position -> message, of the files that cannot be decoded
    several: list[int]  # positions of the files that hold more than the one picture that was taken


def decode_all(
    folder: str, names: np.ndarray, target: Path | None, image_size: int, reading: Reading, stop_at_first: bool
) -> Decoded:
    """Decode folder/names[i] into row i of the .npy file `target`; without `target` only check them.

    With `stop_at_first`, not all that are bad are found.
    """
    work = partial(_decode_some, folder, target, image_size, reading)
    size = 256
    chunks = [(start, names[start : start + size]) for start in range(0, len(names), size)]
    processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), len(chunks))
    found = Decoded({}, [])
    if processes <= 1 or len(chunks) < 4:  # starting processes would take longer
        for chunk in chunks:
            found = _together(found, work(*chunk))
        return found

    from rich.console import Console
    from rich.progress import Progress

    # Workers run Pillow and NumPy's copying only, so forking is safe next to torch's threads, and does not import the
    # main script again as spawning would.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with (
        Progress(console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        task = progress.add_task(f"{'decoding' if target else 'checking'} {folder}", total=len(names))
        futures = {pool.submit(work, *chunk): len(chunk[1]) for chunk in chunks}
        for future in as_completed(futures):
            found = _together(found, future.result())
            progress.advance(task, futures[future])
            if found.bad and stop_at_first:
                pool.shutdown(cancel_futures=True)
                break
    return found


def _together(one: Decoded, other: Decoded) -> Decoded:
    return Decoded(one.bad | other.bad, one.several + other.several)


def keep_rows(path: Path, rows: np.ndarray) -> None:
    """Bring `rows` (ascending) of the array in a .npy file to its start; what follows them is left as it is.

    In place, because a shorter copy would need the space twice.
    """
    array = np.load(path, mmap_mode="r+")
    for start in range(0, len(rows), 256):
        chosen = rows[start : start + 256]
        if chosen[-1] != start + len(chosen) - 1:  # else they are where they should be
            array[start : start + len(chosen)] = array[chosen]
    array.flush()


def _decode_some(
    folder: str, target: Path | None, image_size: int, reading: Reading, start: int, names: np.ndarray
) -> Decoded:
    rows = None if target is None else np.load(target, mmap_mode="r+")
    found = Decoded({}, [])
    for position, name in enumerate(names, start):
        try:
            picture = decode(f"{folder}/{os.fsdecode(name)}", reading, draft=rows is None)
        except ConfigError as error:
            found.bad[position] = str(error)
            continue
        if picture.more:
            found.several.append(position)
        if rows is not None:
            rows[position] = picture.centre(image_size)
    return found
