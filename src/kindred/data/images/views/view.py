"""The settings of one view, and what they ask of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kindred.values import Count, NotNegative, Share


@dataclass(frozen=True)
class View:
    """Settings of one view. Operations run in the order of the fields; those that cannot happen cost nothing.

    Args:
        size: side of the square output in pixels; None keeps the input's height and width.
        crop_scale: (low, high) fraction of the image's area that a random resized crop covers; None: no crop.
        crop_ratio: (low, high) aspect ratio, width over height, of the crop.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees, either way, about the image's centre.
        translate: largest shift, either way, as a fraction of the image's sides.
        zoom: (low, high) factor by which the image is enlarged about its centre.
        jitter: probability that brightness, contrast, saturation and hue are changed, all four.
        brightness, contrast, saturation: the factor is uniform in [max(0, 1 - value), 1 + value].
        hue: the shift is uniform in [-value, value], in full circles; at most 0.5.
        jitter_order: "fixed", as named here, or "random", drawn for each image, as torchvision and the papers' code do.
        gray: probability of losing the colours.
        gray_first: before the jitter instead of after it, as in MoCo v1's code.
        blur: probability of a Gaussian blur.
        blur_sigma: (low, high) standard deviation of the blur in pixels of the output.
        solarize: probability that values from `solarize_threshold` upwards are inverted.
        solarize_threshold: in [0, 1].

    Raises:
        ValueError, TypeError: name the field, its value and what would be right.
    """

    size: Count | None = None
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    rotate: float = 0.0
    translate: Share = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    jitter: Share = 0.0
    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    saturation: NotNegative = 0.0
    hue: float = 0.0
    jitter_order: Literal["fixed", "random"] = "fixed"
    gray: Share = 0.0
    gray_first: bool = False
    blur: Share = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: Share = 0.0
    solarize_threshold: Share = 0.5

    def __post_init__(self) -> None:
        if self.size is not None and (isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1):
            raise ValueError(
                f"size={self.size!r} must be a positive number of pixels, or null to keep the input's size"
            )
        if self.crop_scale is not None:
            self._check_pair("crop_scale", 1.0)
        for name in ("crop_ratio", "zoom", "blur_sigma"):
            self._check_pair(name, float("inf"))
        for name in ("flip", "jitter", "gray", "blur", "solarize"):
            self._check_number(name, 1.0, "a probability from 0 to 1")
        self._check_number("rotate", 180.0, "degrees from 0 to 180")
        self._check_number("translate", 1.0, "a fraction of the image's side, from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            self._check_number(name, float("inf"), "a strength of 0 or more")
        self._check_number("hue", 0.5, "a fraction of the colour circle, from 0 to 0.5")
        self._check_number("solarize_threshold", 1.0, "a grey value from 0 to 1")
        if self.jitter_order not in ("fixed", "random"):
            raise ValueError(f"jitter_order={self.jitter_order!r} must be fixed or random")
        if not isinstance(self.gray_first, bool):
            raise ValueError(f"gray_first={self.gray_first!r} must be true or false")

    def _check_number(self, name: str, high: float, meaning: str) -> None:
        value = getattr(self, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= high
            or value == float("inf")
        ):
            raise ValueError(f"{name}={value!r} must be {meaning}")

    def _check_pair(self, name: str, high: float) -> None:
        """Lists, as YAML gives them, become tuples, so that equal settings are equal and hashable."""
        value = getattr(self, name)
        pair = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
        numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair)
        if len(pair) != 2 or not numbers or not 0 < pair[0] <= pair[1] <= high or pair[1] == float("inf"):
            bound = f" <= {high:g}" if high != float("inf") else ""
            raise ValueError(f"{name}={value!r} must be two numbers (low, high) with 0 < low <= high{bound}")
        object.__setattr__(self, name, pair)

    @property
    def is_affine(self) -> bool:
        """Whether more than an axis-aligned crop and a flip is asked for."""
        return self.rotate > 0 or self.translate > 0 or self.zoom != (1.0, 1.0)

    @property
    def jitters(self) -> bool:
        """Whether brightness, contrast, saturation or hue can change."""
        return self.jitter > 0 and any((self.brightness, self.contrast, self.saturation, self.hue))


def needs_colours(views: Sequence[View]) -> str | None:
    """The first setting that means something only of red, green and blue, such as `views[0].hue=0.1`; None: no one."""
    for number, view in enumerate(views):
        for name in ("saturation", "hue", "gray"):
            if getattr(view, name) and (name == "gray" or view.jitter):
                return f"views[{number}].{name}={getattr(view, name)}"
    return None
