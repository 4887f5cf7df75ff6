"""Several augmented views of a batch of images, computed on the device that the batch is on.

How an image is augmented is a pure function of (seed, epoch, image index, view): the same bits in any batch and order,
on any number of threads or ranks. Global random state is neither read nor moved, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from kindred.data.counter import uniforms
from kindred.data.images.normalisation import NormalizedEncoder
from kindred.data.images.views.operations import Draw, apply_, chunks, colour_steps, sampling
from kindred.data.images.views.resample import random_boxes, whole_boxes
from kindred.data.images.views.view import View, needs_colours
from kindred.data.views import Views


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
        sample, placement = sampling(view, u, boxes, (height, width), size)
        steps = colour_steps(view, u)
        order = torch.channels_last if normalized else torch.contiguous_format
        result = torch.empty(batch, channels, *size, device=images.device, memory_format=order)
        for part in chunks(result):
            here = torch.empty(result[part].shape, device=images.device) if normalized else result[part]
            sampled = sample(images[part], *(values[..., part, :] for values in placement))
            torch.clamp(sampled, max=1, out=here)  # weights sum to one up to rounding
            for happens, operations in steps:
                apply_(here, happens[part], [(operation, parameter[part]) for operation, parameter in operations])
            if normalized:
                self._normalize(here, result[part])
        return result
