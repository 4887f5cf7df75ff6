"""Numbers of any type -> 8 bits."""

import numpy as np

from kindred.errors import ConfigError


class UnfitError(ConfigError):
    """A sound file of which the settings do not say what to make."""


def to_8_bits(values: np.ndarray, ends: tuple[float, float] | None, dtype: np.dtype | None = None) -> np.ndarray:
    """uint8 of the same shape: `ends` become 0 and 255, what is beyond them too, and between them it is linear, rounded.

    Args:
        values: of any type of number.
        ends: None: those of `dtype`, by default the values' own.

    Raises:
        UnfitError: floats without ends, values that are not finite, or ends that are beyond what 8 bits can hold.
    """
    dtype = values.dtype if dtype is None else dtype
    if ends is None and dtype.kind == "f":
        raise UnfitError(
            f"holds {dtype.name} numbers, of which nobody knows what is black and what is white: "
            "set data.source.range=[black,white]"
        )
    if dtype.kind not in "buif":
        raise UnfitError(f"holds values of type {dtype}, which are no grey values; data.source.range cannot help")
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise UnfitError("holds values that are not finite, which data.source.range cannot place")
    if dtype == np.uint8:
        if ends is None or tuple(ends) == (0, 255):
            return values.astype(np.uint8, copy=False)
        if ends[0] < 0 or ends[1] > 255:
            raise UnfitError(
                f"has 8 bits a channel, and data.source.range=[{ends[0]:g},{ends[1]:g}] is for more: give values from 0 "
                "to 255, or null, and keep other images elsewhere"
            )
    if ends is None:
        ends = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = ends
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
