"""Random resized crops, flips and affine maps of a batch as one antialiased resampling with per-image parameters.

Nothing depends on the batch that an image is in, to the bit: numbers are touched only by integer operations, those that
IEEE 754 rounds in one way (+, -, *, /, sqrt, floor, comparisons), in an order that depends on the sizes alone, and by
`embedding_bag`, which sums each bag for itself. Matrix products, `exp`, fused multiply-adds and library reductions round
differently with the batch size, at the end of a vector, or on other numbers of threads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

CROP_TRIES = 10


def _horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """The polynomial with the given coefficients, the constant first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def exp(x: Tensor) -> Tensor:
    """exp(x) for -2 <= x <= 80, to 1e-5 (x <= 20) or 10%: `torch.exp` may round otherwise at a vector's end."""
    value = _horner(x * (1 / 16), [1 / math.factorial(n) for n in range(13)])
    for _ in range(4):
        value = value * value
    return value


def cos_sin(radians: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine for |radians| <= pi, to about 1e-6, for the same reason."""
    square = radians * radians
    cosine = _horner(square, [(-1) ** n / math.factorial(2 * n) for n in range(11)])
    sine = radians * _horner(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(11)])
    return cosine, sine


def random_boxes(
    u: Tensor, height: int | Tensor, width: int | Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Crop boxes int64 [B, 4] (top, left, height, width) from uniforms [B, 2 * CROP_TRIES + 2].

    torchvision's RandomResizedCrop.get_params: of ten draws of (area, aspect ratio) the first that fits into the image,
    else the largest central crop with an allowed ratio. `height` and `width` are integers or int64 [B]; pixels.
    """
    size = u.new_empty(len(u), 1)
    height, width = (torch.zeros_like(size) + _column(side) for side in (height, width))

    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = height * width * (u[:, :CROP_TRIES] * (scale[1] - scale[0]) + scale[0])
    aspect = exp(u[:, CROP_TRIES : 2 * CROP_TRIES] * (high - low) + low)
    box_height = (area / aspect).sqrt().round()
    box_width = (area * aspect).sqrt().round()
    fits = (box_height > 0) & (box_height <= height) & (box_width > 0) & (box_width <= width)

    # the fallback is an eleventh column that always fits; the first column that fits is chosen
    fallback_height = torch.minimum((width / ratio[0]).round().clamp(min=1), height)
    fallback_width = torch.minimum((height * ratio[1]).round().clamp(min=1), width)
    tries = torch.arange(CROP_TRIES, device=u.device)
    first = torch.where(fits, tries, CROP_TRIES).amin(1, keepdim=True)
    fallback = first == CROP_TRIES
    box_height = torch.cat((box_height, fallback_height), 1).gather(1, first)
    box_width = torch.cat((box_width, fallback_width), 1).gather(1, first)

    spare = torch.cat((height - box_height, width - box_width), 1)
    # the minimum guards against u * (spare + 1) being rounded up to spare + 1
    offset = torch.minimum((u[:, 2 * CROP_TRIES :] * (spare + 1)).floor(), spare)
    offset = torch.where(fallback, (spare * 0.5).floor(), offset)
    return torch.cat((offset, box_height, box_width), 1).to(torch.int64)


def _column(side: int | Tensor) -> float | Tensor:
    return side.to(torch.float32)[:, None] if isinstance(side, Tensor) else float(side)


def whole_boxes(batch: int, height: int | Tensor, width: int | Tensor, device: torch.device) -> Tensor:
    """The boxes int64 [B, 4] that hold the whole image."""
    zero = torch.zeros(batch, dtype=torch.int64, device=device)
    return torch.stack((zero, zero, zero + height, zero + width), 1)


def _positions(length: Tensor, flip: Tensor | None, out: int) -> tuple[Tensor, Tensor]:
    """Centres [B, out] of the output pixels, in source pixels from the start of the box, and their width [B, 1]."""
    step = length.to(torch.float32)[:, None] / out
    place = torch.arange(out, device=length.device, dtype=torch.float32)[None]
    if flip is not None:
        flip = flip.to(torch.float32)[:, None]
        place = place * (1 - 2 * flip) + flip * (out - 1)
    return (place + 0.5) * step, step


def _triangle(centre: Tensor, support: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` pixels around each centre, unclipped, and their triangle-filter weights: [count, ...]."""
    middle = centre - 0.5
    taps = torch.arange(1, count + 1, device=centre.device).view(-1, *(1,) * centre.ndim)
    pixels = (middle - support).floor() + taps
    return pixels, (1 - (pixels - middle).abs_() / support).clamp_(min=0)


def _ordered_sum(terms: Tensor) -> Tensor:
    """Sum over the first dimension, one after the other."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def tap_count(source: int, out: int) -> int:
    """How many pixels the antialiasing triangle can cover along one side."""
    return math.ceil(2 * max(1.0, source / out))


def axis_taps(start: Tensor, length: Tensor, flip: Tensor | None, source: int, out: int) -> tuple[Tensor, Tensor]:
    """Source pixels (int64) and weights (float32), each [taps, B, out], that resample a box along one axis.

    Pixels outside the box have no weight; the rest is normalised, as in Pillow and torchvision with antialias=True.
    """
    centre, step = _positions(length, flip, out)
    pixels, weights = _triangle(centre, step.clamp(min=1), tap_count(source, out))
    inside = torch.minimum(pixels.clamp(min=0), (length - 1).to(torch.float32)[:, None])
    weights *= inside == pixels
    return inside.to(torch.int64) + start[:, None], weights / _ordered_sum(weights)


def weighted_rows(table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over taps of rows of `table` [N, H, W] at `pixels` and `weights` [taps, N, h]: float32 [N, h, W].

    `embedding_bag` does it in one pass over memory, and each sum in the order of its taps, whatever the batch; but only
    of contiguous rows, else it takes another way with another rounding.
    """
    count, height, width = table.shape
    base = torch.arange(count, device=table.device)[:, None] * height
    bags = (pixels + base).flatten(1).t().contiguous()
    weights = weights.flatten(1).t().contiguous()
    rows = table.reshape(-1, width).to(torch.float32).contiguous()
    return embedding_bag(bags, rows, mode="sum", per_sample_weights=weights).view(count, -1, width)


def box_taps(
    boxes: Tensor, flip: Tensor | None, source: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels and weights of the columns, then of the rows, for `resample_taps`; images of sides `source` become `size`."""
    top, left, height, width = boxes.unbind(1)
    row_pixels, row_weights = axis_taps(top, height, None, source[0], size[0])
    return *axis_taps(left, width, flip, source[1], size[1]), row_pixels, row_weights * (1 / 255)


def resample_taps(images: Tensor, taps: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Resizes uint8 [B, C, H, W] to float32 [B, C, h, w] in [0, 1], up to rounding, with the `box_taps` of the images.

    Separable: columns, then rows. Either is a weighted sum of rows of memory, hence the transpositions.
    """
    channels, height, width = images.shape[1:]
    column_pixels, column_weights, *rows = taps
    table = torch.empty(len(images), width, channels, height, device=images.device).copy_(images.permute(0, 3, 1, 2))
    wide = weighted_rows(table.flatten(2), column_pixels, column_weights)  # [B, w, C * H]
    planes = wide.transpose(1, 2).reshape(len(images) * channels, height, -1)
    rows = (part.repeat_interleave(channels, 1, output_size=len(planes)) for part in rows)
    result = weighted_rows(planes, *rows)
    return result.view(-1, channels, *result.shape[1:])


def resample(images: Tensor, boxes: Tensor, flip: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Crop, flip and resize: uint8 [B, C, H, W] -> float32 [B, C, *size] in [0, 1] up to rounding.

    `boxes` int64 [B, 4] as (top, left, height, width), `flip` bool [B] or None. Bilinear, antialiased where it shrinks.
    """
    height, width = images.shape[2:]
    return resample_taps(images, box_taps(boxes, flip, (height, width), size))


def resample_affine(
    images: Tensor,
    boxes: Tensor,
    flip: Tensor | None,
    size: tuple[int, int],
    degrees: Tensor,
    shift: Tensor,
    zoom: Tensor,
) -> Tensor:
    """`resample` of the image after an affine map about its centre, in the same single step.

    The map is torchvision's `affine` (clockwise `degrees` [B], `shift` [B, 2] to the right and down in pixels, `zoom`
    [B], bilinear, black outside); the box is cut from its result. Without an intermediate image nothing is blurred twice.
    """
    height, width = images.shape[2:]
    top, left, box_height, box_width = boxes.unbind(1)
    x, step_x = _positions(box_width, flip, size[1])
    y, step_y = _positions(box_height, None, size[0])
    x = (x + left[:, None] - width / 2 - shift[:, :1])[:, None, :]
    y = (y + top[:, None] - height / 2 - shift[:, 1:])[:, :, None]

    cosine, sine = (part[:, None, None] for part in cos_sin(degrees * (math.pi / 180)))
    scale = zoom[:, None, None]
    source_x = (cosine * x + sine * y) / scale + width / 2  # [B, h, w]
    source_y = (cosine * y - sine * x) / scale + height / 2
    # the crop's shrinking, turned into the source's axes, widens the filter; as in torchvision, the map's own does not
    step_x, step_y = (step[:, :, None] * step[:, :, None] for step in (step_x, step_y))
    cosine, sine = cosine * cosine, sine * sine
    support_x = (cosine * step_x + sine * step_y).sqrt().clamp(min=1)
    support_y = (cosine * step_y + sine * step_x).sqrt().clamp(min=1)

    count = max(tap_count(width, size[1]), tap_count(height, size[0]))
    taps_x, weights_x = _triangle(source_x, support_x, count)
    taps_y, weights_y = _triangle(source_y, support_y, count)
    total = _ordered_sum(weights_x) * _ordered_sum(weights_y) * 255
    inside_x, inside_y = taps_x.clamp(0, width - 1), taps_y.clamp(0, height - 1)
    weights_x *= inside_x == taps_x
    weights_y *= inside_y == taps_y
    weights_y /= total
    columns, rows = inside_x.to(torch.int64), inside_y.to(torch.int64) * width

    batch, channels = images.shape[:2]
    flat = images.reshape(batch, channels, -1)
    result = torch.zeros(batch, channels, *size, device=images.device)
    for row, weight_y in zip(rows, weights_y, strict=True):
        for column, weight_x in zip(columns, weights_x, strict=True):
            place = (row + column).view(batch, 1, -1).expand(-1, channels, -1)
            value = flat.gather(2, place).to(torch.float32).view_as(result)
            result += value.mul_((weight_x * weight_y)[:, None])
    return result
