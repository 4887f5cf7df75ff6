"""What a view's settings and an image's uniforms make of it: a resampling, then operations on colours, each in place.

Every uniform has a place of its own (`Draw`). A batch is cut to what stays in a CPU's caches; on a GPU nothing waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from itertools import product

import torch
from torch import Tensor

from kindred.data.images.views import colour
from kindred.data.images.views.resample import CROP_TRIES, box_taps, resample_affine, resample_taps
from kindred.data.images.views.view import View

# Pixels x channels that a CPU core takes at a time: what lies between stays in its caches, and the calls are few.
CHUNK_VALUES = 3 << 17

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


def on_host(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def chunks(result: Tensor) -> list[slice]:
    """Cuts a batch to what fits into a CPU's caches; a view does not depend on its neighbours."""
    batch, step = len(result), len(result)
    if on_host(result):
        step = CHUNK_VALUES * torch.get_num_threads() // math.prod(result.shape[1:])
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, batch, step)]


def apply_(images: Tensor, happens: Tensor, operations: list[Operation]) -> None:
    """Runs in-place operations on the images [B, C, H, W] where `happens` [B]; elsewhere their parameters are neutral."""
    if not on_host(images):
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


def sampling(
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


def colour_steps(view: View, u: Tensor) -> list[tuple[Tensor, list[Operation]]]:
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
