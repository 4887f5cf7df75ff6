"""Image files -> pixels, one or many at once. Imports no torch, so that a forked process inherits no thread pool."""

import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from kindred.errors import ConfigError


def decode(path: str, channels: int, draft: bool = False) -> Image.Image:
    """The image in `path` as RGB (3 channels) or grey (1). Like torchvision, it is not turned as EXIF says.

    `draft` reads the whole file but computes an eighth of a JPEG's resolution: enough to see that it is sound.

    Raises:
        ValueError: naming the file, if it cannot be decoded to its end.
    """
    try:
        with Image.open(path) as image:
            if draft:
                image.draft(None, (image.width // 8, image.height // 8))
            mode = {1: "L", 3: "RGB"}[channels]
            image.load()
            return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error, EOFError ...
        raise ConfigError(f"{path} cannot be decoded ({type(error).__name__}: {error})") from error


def centre(image: Image.Image, size: int, enlarged: int | None = None) -> Image.Image:
    """Shorter side resized to `enlarged` (default: `size`), then the central square of `size` pixels.

    The same pixels as torchvision's Resize (bilinear, antialiased) and CenterCrop on a PIL image.
    """
    width, height = image.size
    shorter, target = min(width, height), enlarged or size
    if shorter != target:
        width, height = (target if side == shorter else int(target * side / shorter) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size)) if image.size != (size, size) else image


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [C, H, W], C-contiguous"""
    array = np.asarray(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def decode_all(
    folder: str, names: np.ndarray, target: Path | None, image_size: int, channels: int, stop_at_first: bool
) -> dict[int, str]:
    """Decode folder/names[i] into row i of the .npy file `target`, in all CPUs; without `target` only check them.

    Returns:
        Position -> message, for the files that cannot be decoded (with `stop_at_first`, some of them).
    """
    work = partial(_decode_some, folder, target, image_size, channels)
    size = 256
    chunks = [(start, names[start : start + size]) for start in range(0, len(names), size)]
    processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), len(chunks))
    if processes <= 1 or len(chunks) < 4:  # starting processes would take longer
        return {position: message for chunk in chunks for position, message in work(*chunk).items()}

    from rich.console import Console
    from rich.progress import Progress

    bad: dict[int, str] = {}
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
            bad |= future.result()
            progress.advance(task, futures[future])
            if bad and stop_at_first:
                pool.shutdown(cancel_futures=True)
                break
    return bad


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
    folder: str, target: Path | None, image_size: int, channels: int, start: int, names: np.ndarray
) -> dict[int, str]:
    rows = None if target is None else np.load(target, mmap_mode="r+")
    bad = {}
    for position, name in enumerate(names, start):
        try:
            image = decode(f"{folder}/{os.fsdecode(name)}", channels, draft=rows is None)
        except ValueError as error:
            bad[position] = str(error)
            continue
        if rows is not None:
            rows[position] = pixels(centre(image, image_size))
    return bad
