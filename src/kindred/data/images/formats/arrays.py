"""Images of any number of channels, which only NumPy's files hold."""

from typing import BinaryIO

import numpy as np

from kindred.data.images.formats.scale import UnfitError


def read_array(file: str | BinaryIO, channels: int) -> np.ndarray:
    """The array of a .npy file as [channels, H, W], of its own type; it is stored so, or as [H, W, channels].

    Raises:
        UnfitError: it has another shape, or one that may be either.
    """
    array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays")
    if channels == 1 and array.ndim == 2:
        array = array[None]
    first, last = (array.ndim == 3 and array.shape[axis] == channels for axis in (0, -1))
    if first == last or not array.size:
        either = ", which may be either" if first and last else ""
        raise UnfitError(
            f"has the shape {list(array.shape)}{either}: data.channels={channels} needs [{channels}, height, width] or "
            f"[height, width, {channels}]"
        )
    return np.ascontiguousarray(array if first else np.moveaxis(array, -1, 0))
