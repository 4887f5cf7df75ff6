"""Colour operations and blur on a batch with one parameter per image.

Images are float32 [B, C, H, W] in [0, 1] and stay there; parameters are float32 [B]. Each operation is torchvision's
(`torchvision.transforms.v2.functional`) and the identity at its neutral parameter. Names that end in an underscore work
in place, as in torch, and return their argument. Grey images (C = 1) pass unchanged through the operations that need
three channels, which are not for other numbers of channels. The numbers are touched only by operations with one
rounding, and sums are of integers, for the reason given in `resample.py`; `torch.where` is avoided because it is slow on
CPUs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kindred.data.images.views.resample import exp, weighted_rows


def _per_image(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def luminance(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma with torchvision's coefficients: [B, C, H, W] -> [B, 1, H, W]; one channel is its own luma.

    Of channels that are no colours it is the mean.
    """
    if images.shape[1] != 3:
        luma = images[:, :1].clone()
        for channel in images.split(1, 1)[1:]:  # in this order on any device
            luma += channel
        return luma.mul_(1 / images.shape[1])
    red, green, blue = images.split(1, 1)
    luma = red * 0.2989
    term = green * 0.587
    luma += term
    torch.mul(blue, 0.114, out=term)
    return luma.add_(term)


def _exact_mean_(luma: Tensor) -> Tensor:
    """Mean over the pixels, [B, 1, H, W] -> [B, 1, 1, 1], of values rounded down to a fixed grid; overwrites `luma`.

    A float sum depends on its order, and the order on batch size, threads and device; an integer sum does not.
    """
    pixels = luma.shape[2] * luma.shape[3]
    levels = 2.0 ** (30 - pixels.bit_length())  # the sum of all pixels fits into 31 bits
    total = luma.mul_(levels).to(torch.int32).sum((2, 3), keepdim=True, dtype=torch.int32)
    return total.to(torch.float32) * (1 / (levels * pixels))


def _blend_(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, clamped."""
    return images.mul_(factor).add_(other.mul_(1 - factor)).clamp_(0, 1)


def adjust_brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by `factor` >= 0."""
    return images.mul_(_per_image(factor)).clamp_(max=1)


def adjust_contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the image's mean luma; `factor` >= 0, 1 is neutral."""
    return _blend_(images, _exact_mean_(luminance(images)), _per_image(factor))


def adjust_saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the image's own grey version; `factor` >= 0, 1 is neutral."""
    if images.shape[1] == 1:
        return images
    return _blend_(images, luminance(images), _per_image(factor))


def adjust_hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of HSV by `shift` in [-0.5, 0.5] of a full circle, without going through HSV.

    With maximum M, minimum m and C = M - m of a pixel, HSV -> RGB is, in sixths of the circle,
    channel_n = M - C * clamp(2 - distance(hue, peak_n), 0, 1) with peaks opposite to red, green and blue.
    Multiplied out, no division remains; and C * (the hue's signed distance from green) is
    sign(b - r) * (r + b - g + M - 2m) in every one of the six cases.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    high = torch.maximum(red, green)
    torch.maximum(high, blue, out=high)
    low = torch.minimum(red, green)
    torch.minimum(low, blue, out=low)
    chroma = high - low
    from_green = (red + blue).sub_(green).add_(chroma).sub_(low).clamp_(min=0)
    from_green.copysign_(blue - red)

    # opposite to red, green and blue: 5, 3, 1; `torch.tensor` would wait for the device
    peaks = torch.arange(5.0, 0.0, -2.0, device=images.device).view(1, 3, 1, 1)
    turn = _per_image(shift) * 6 + peaks
    turn -= ((turn + 3) / 6).floor() * 6  # [B, 3, 1, 1] in [-3, 3)
    # at most 6 C from the peak's opposite; folding once at 3 C gives the distance on the circle
    distance = torch.mul(chroma, turn, out=images).add_(from_green).abs_()
    distance.sub_(chroma * 3).abs_()
    chroma += high
    return torch.sub(chroma, distance, out=images).clamp_(low, high)


def to_gray_(images: Tensor, apply: Tensor) -> Tensor:
    """Replaces all channels by the luma where `apply` (bool [B]) holds."""
    if images.shape[1] == 1:
        return images
    apply = _per_image(apply.to(torch.float32))
    luma = luminance(images).mul_(apply)
    return images.mul_(1 - apply).add_(luma)


def gaussian_blur_(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with standard deviation `sigma` [B] in pixels, 0 leaves an image as it is; reflecting borders.

    The kernel has 2 * radius + 1 taps, as in torchvision; a side too short to reflect them takes those that fit.
    """
    exponent = 1 / (2 * sigma * sigma)
    # the taps are q ** (k * k); beyond exponent 80 (sigma 0.08) the blur is nothing
    q = (sigma > 0) / exp(exponent.clamp(max=80.0))
    channels, height, width = images.shape[1:]
    planes = images.view(-1, height, width)
    q = q.repeat_interleave(channels, output_size=len(planes))
    planes = _blur_rows(planes, q, min(radius, height - 1))
    planes = _blur_rows(planes.transpose(1, 2), q, min(radius, width - 1))
    return torch.clamp(planes.transpose(1, 2).reshape(images.shape), max=1, out=images)


def _blur_rows(planes: Tensor, q: Tensor, radius: int) -> Tensor:
    """Blurs [N, H, W] along H with the taps q ** (k * k), q [N]."""
    taps = [torch.ones_like(q)]
    ratio = q
    for _ in range(radius):
        taps.append(taps[-1] * ratio)
        ratio = ratio * q * q
    total = taps[0]
    for tap in taps[1:]:
        total = total + tap + tap
    taps = torch.stack([*taps[:0:-1], *taps]) / total  # [2 * radius + 1, N]

    height = planes.shape[1]
    offset = torch.arange(-radius, radius + 1, device=planes.device)[:, None]
    pixels = (torch.arange(height, device=planes.device) + offset).abs()
    pixels = torch.minimum(pixels, 2 * (height - 1) - pixels)  # reflected at both ends
    return weighted_rows(planes, pixels[:, None], taps[:, :, None].expand(-1, -1, height))


def blur_radius(sigma: float) -> int:
    """Taps on either side: three standard deviations hold 99.7% of the kernel."""
    return math.ceil(3 * sigma)


def solarize_(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values >= `threshold` [B]; a threshold above 1 leaves an image as it is."""
    # 0 and 1 as floats, since a bool tensor in between is slower; |1 - x| inverts, |0 - x| does not
    inverted = torch.ge(images, _per_image(threshold), out=torch.empty_like(images))
    return torch.sub(inverted, images, out=images).abs_()
