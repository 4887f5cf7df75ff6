"""Several augmented views of a batch of images, computed on the device that the batch is on.

How an image is augmented is a pure function of (seed, epoch, image index, view): the same bits in any batch and order,
on any number of threads or ranks. Global random state is neither read nor moved, and nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from kindred.data.counter import uniforms
from kindred.data.images import colour
from kindred.data.images.normalisation import NormalizedEncoder
from kindred.data.images.resample import CROP_TRIES, box_taps, random_boxes, resample_affine, resample_taps, whole_boxes
from kindred.data.views import Views
from kindred.values import Count, NotNegative, Share

CHUNK_VALUES = (
    1 << 17
)  # pixels x channels that a CPU core takes at a time, so that what lies between stays in its cache

Operation = tuple[Callable[[Tensor, Tensor], Tensor], Tensor]  # an in-place operation and its parameter per image


class Draw(IntEnum):
    """Which uniform decides what. Each has its own, so switching one operation off leaves the others' draws alone."""

    CROP = 0  # CROP_TRIES areas, CROP_TRIES aspect ratios, top, left
    FLIP = 2 * CROP_TRIES + 2
    ROTATE = 23
    SHIFT_X = 24
    SHIFT_Y = 25
    ZOOM = 26
    JITTER = 27
    BRIGHTNESS = 28
    CONTRAST = 29
    SATURATION = 30
    HUE = 31
    GRAY = 32
    BLUR = 33
    SIGMA = 34
    SOLARIZE = 35
    ORDER = 36  # of brightness, contrast, saturation and hue: one each, the smallest comes first


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


class MultiView(Views):
    """Augments each image of a batch once per view.

    Args:
        views: settings, one per view; contrastive methods need two or more.
        seed: of all random choices; any integer.

    Raises:
        ValueError, TypeError: when `views` is empty or holds something else.
    """

    def __init__(self, views: Sequence[View], seed: int) -> None:
        self.views = tuple(views)
        self.seed = int(seed)
        self.image_size = 0
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()
        self._statistics: dict[torch.device, tuple[Tensor, Tensor]] = {}
        if not self.views:
            raise ValueError("views=[] must hold at least one View (contrastive methods need two or more)")
        for view in self.views:
            if not isinstance(view, View):
                raise TypeError(
                    f"views holds {view!r} of type {type(view).__name__}; it must hold kindred.data.images.views.View"
                )

    def __len__(self) -> int:
        return len(self.views)

    def expect(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """Say which images `augment` and `plain` are for: the evaluation's size in pixels, and statistics per channel."""
        self.image_size, self.mean, self.std = image_size, tuple(mean), tuple(std)

    def expect_as(self, other: Views) -> None:
        if isinstance(other, MultiView):
            self.expect(other.image_size, other.mean, other.std)

    @torch.no_grad()
    def augment(self, raw: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """`normalize` of what `__call__` gives, while it is in the cache."""
        self._check(raw, index)
        return tuple(self._view(number, raw, index, epoch, normalized=True) for number in range(len(self.views)))

    def plain(self, raw: Tensor) -> Tensor:
        images = raw.float() / 255
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """float [B, C, H, W] in [0, 1] -> zero mean and unit variance per channel over the source's train images.

        In channels_last order of memory, as convolutions want it on CPUs and GPUs: no copy has to bring it there.
        """
        return self._normalize(images, torch.empty_like(images, memory_format=torch.channels_last))

    def _normalize(self, images: Tensor, out: Tensor) -> Tensor:
        mean, std = self._on(images.device)
        for channel in range(images.shape[1]):  # one at a time is quick to read, and to write with a stride
            out[:, channel] = (images[:, channel] - mean[channel]) / std[channel]
        return out

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._statistics:  # copied once: a copy per batch would wait for the device
            mean, std = (
                torch.tensor(value, dtype=torch.float32, device=device).view(-1, 1, 1)
                for value in (self.mean, self.std)
            )
            self._statistics[device] = mean, std
        return self._statistics[device]

    base_line, input_name = "pixels", "images"

    def as_features(self, inputs: Tensor) -> Tensor:
        """Their pixels, averaged down to at most 32x32."""
        height, width = inputs.shape[2:]
        return adaptive_avg_pool2d(inputs, (min(32, height), min(32, width))).flatten(1)

    def pictures(self, inputs: Tensor) -> Tensor | None:
        if inputs.shape[1] not in (1, 3):
            return None
        mean, std = self._on(inputs.device)
        return (inputs * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)

    def exported(self, encoder: nn.Module) -> nn.Module:
        return NormalizedEncoder(encoder, self.mean, self.std)

    def example_inputs(self, count: int) -> Tensor:
        shape = (count, len(self.mean), self.image_size, self.image_size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def crop_boxes(self, view: int, index: Tensor, epoch: int, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Boxes int64 [B, 4] (top, left, height, width) that view number `view` cuts from images of the given sides.

        For whoever crops before the batch is made, from files too large to hold decoded: these are the draws that
        `__call__` uses. `index` int64 [B]; `height` and `width` in pixels, integers or [B].
        """
        return self._boxes(self.views[view], self._uniforms(view, index, epoch), height, width)

    @torch.no_grad()
    def __call__(self, images: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """The views, each float32 [B, C, h, w] in [0, 1], C-contiguous.

        Args:
            images: uint8 [B, C, H, W], or [B, V, C, h, w] when view v of each image is
                already cropped (by `crop_boxes`) and resized: all but the crop happens, with the same draws.
            index: int64 [B], each image's position in its source; on the same device as `images`.
            epoch: another epoch, another augmentation.
        """
        self._check(images, index)
        return tuple(self._view(number, images, index, epoch) for number in range(len(self.views)))

    def _check(self, images: Tensor, index: Tensor) -> None:
        shape = tuple(images.shape)
        if images.dtype != torch.uint8:
            raise TypeError(f"images have dtype {images.dtype}; views are made from torch.uint8")
        if images.ndim not in (4, 5):
            raise ValueError(f"images have shape {shape}; it must be [B, C, H, W] or [B, V, C, h, w]")
        if shape[-3] not in (1, 3) and (coloured := needs_colours(self.views)):
            raise ValueError(f"images have {shape[-3]} channels, but {coloured} needs colours")
        if images.ndim == 5 and shape[1] != len(self.views):
            raise ValueError(
                f"images have shape {shape}: {shape[1]} cropped views, but {len(self.views)} are configured"
            )
        if index.shape != shape[:1]:
            raise ValueError(f"index has shape {tuple(index.shape)}; {shape[0]} images need {shape[:1]}")

    def _uniforms(self, number: int, index: Tensor, epoch: int) -> Tensor:
        return uniforms(self.seed, epoch, number, index, Draw.ORDER + 4)

    @staticmethod
    def _boxes(view: View, u: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
        if view.crop_scale is None:
            return whole_boxes(len(u), height, width, u.device)
        return random_boxes(u[:, Draw.CROP : Draw.FLIP], height, width, view.crop_scale, view.crop_ratio)

    def _view(self, number: int, images: Tensor, index: Tensor, epoch: int, normalized: bool = False) -> Tensor:
        view = self.views[number]
        cropped = images.ndim == 5
        images = images[:, number] if cropped else images
        batch, channels, height, width = images.shape
        u = self._uniforms(number, index, epoch)
        boxes = whole_boxes(batch, height, width, u.device) if cropped else self._boxes(view, u, height, width)
        size = (view.size, view.size) if view.size else (height, width)
        sample, placement = _sampling(view, u, boxes, (height, width), size)
        steps = _colour_steps(view, u)
        order = torch.channels_last if normalized else torch.contiguous_format
        result = torch.empty(batch, channels, *size, device=images.device, memory_format=order)
        for part in _chunks(result):
            here = torch.empty(result[part].shape, device=images.device) if normalized else result[part]
            sampled = sample(images[part], *(values[..., part, :] for values in placement))
            torch.clamp(sampled, max=1, out=here)  # weights sum to one up to rounding
            for happens, operations in steps:
                _apply_(here, happens[part], [(operation, parameter[part]) for operation, parameter in operations])
            if normalized:
                self._normalize(here, result[part])
        return result


def needs_colours(views: Sequence[View]) -> str | None:
    """The first setting that means something only of red, green and blue, such as `views[0].hue=0.1`; None: no one."""
    for number, view in enumerate(views):
        for name in ("saturation", "hue", "gray"):
            if getattr(view, name) and (name == "gray" or view.jitter):
                return f"views[{number}].{name}={getattr(view, name)}"
    return None


def _on_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _chunks(result: Tensor) -> list[slice]:
    """Cuts a batch to what fits into a CPU's caches; a view does not depend on its neighbours."""
    batch, step = len(result), len(result)
    if _on_host(result):
        step = CHUNK_VALUES * torch.get_num_threads() // math.prod(result.shape[1:])
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, batch, step)]


def _apply_(images: Tensor, happens: Tensor, operations: list[Operation]) -> None:
    """Runs in-place operations on the images [B, C, H, W] where `happens` [B]; elsewhere their parameters are neutral."""
    if not _on_host(images):
        for operation, parameter in operations:
            operation(images, parameter)
        return
    chosen = happens.nonzero().flatten()
    if len(chosen):
        some = images.index_select(0, chosen)
        for operation, parameter in operations:
            operation(some, parameter.index_select(0, chosen))
        images.index_copy_(0, chosen, some)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return u * (high - low) + low


def _sampling(
    view: View, u: Tensor, boxes: Tensor, source: tuple[int, int], size: tuple[int, int]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The resampling of uint8 [B, C, *source] to float32 [B, C, *size], and its parameters, [..., B, n] each."""
    flip = (u[:, Draw.FLIP] < view.flip).to(torch.float32)
    if not view.is_affine:
        return lambda images, *taps: resample_taps(images, taps), box_taps(boxes, flip, source, size)
    degrees = _between(u[:, Draw.ROTATE], -view.rotate, view.rotate)
    across = _between(u[:, Draw.SHIFT_X], -view.translate, view.translate) * source[1]
    down = _between(u[:, Draw.SHIFT_Y], -view.translate, view.translate) * source[0]
    zoom = _between(u[:, Draw.ZOOM], *view.zoom)

    def sample(images: Tensor, boxes: Tensor, motion: Tensor) -> Tensor:
        flip, degrees, across, down, zoom = motion.unbind(1)
        return resample_affine(images, boxes, flip, size, degrees, torch.stack((across, down), 1), zoom)

    return sample, (boxes, torch.stack((flip, degrees, across, down, zoom), 1))


def _colour_steps(view: View, u: Tensor) -> list[tuple[Tensor, list[Operation]]]:
    """What follows the resampling: where it happens (bool [B]), and the operations with their parameters [B]."""
    steps: list[tuple[Tensor, list[Operation]]] = _jitter_steps(view, u) if view.jitters else []
    if view.gray > 0:
        happens = u[:, Draw.GRAY] < view.gray
        steps.insert(0 if view.gray_first else len(steps), (happens, [(colour.to_gray_, happens)]))
    if view.blur > 0:
        happens = u[:, Draw.BLUR] < view.blur
        blur = partial(colour.gaussian_blur_, radius=colour.blur_radius(view.blur_sigma[1]))
        steps.append((happens, [(blur, _between(u[:, Draw.SIGMA], *view.blur_sigma) * happens)]))
    if view.solarize > 0:
        happens = u[:, Draw.SOLARIZE] < view.solarize
        # 2 is above every value, so nothing is inverted
        steps.append((happens, [(colour.solarize_, torch.where(happens, view.solarize_threshold, 2.0))]))
    return steps


def _jitter_steps(view: View, u: Tensor) -> list[tuple[Tensor, list[Operation]]]:
    happens = u[:, Draw.JITTER] < view.jitter
    operations = []  # each with its parameter, the one that changes nothing, and its draw of the order
    for number, (draw, strength, adjust) in enumerate(
        (
            (Draw.BRIGHTNESS, view.brightness, colour.adjust_brightness_),
            (Draw.CONTRAST, view.contrast, colour.adjust_contrast_),
            (Draw.SATURATION, view.saturation, colour.adjust_saturation_),
            (Draw.HUE, view.hue, colour.adjust_hue_),
        )
    ):
        if strength > 0:
            low, high, neutral = (
                (-strength, strength, 0.0) if draw == Draw.HUE else (max(0.0, 1 - strength), 1 + strength, 1.0)
            )
            operations.append((adjust, _between(u[:, draw], low, high), neutral, u[:, Draw.ORDER + number]))
    if view.jitter_order == "fixed":
        return [(happens, [(adjust, torch.where(happens, value, neutral)) for adjust, value, neutral, _ in operations])]
    # At each place every operation is offered, and changes the images whose turn for it that is: on a CPU it sees no
    # others, on a GPU, where looking would be waiting, it leaves them as they are.
    places = torch.stack([place for *_, place in operations], dim=1).argsort(dim=1, stable=True).argsort(dim=1)
    steps: list[tuple[Tensor, list[Operation]]] = []
    for place, number in product(range(len(operations)), repeat=2):
        adjust, value, neutral, _ = operations[number]
        here = happens & (places[:, number] == place)
        steps.append((here, [(adjust, torch.where(here, value, neutral))]))
    return steps
