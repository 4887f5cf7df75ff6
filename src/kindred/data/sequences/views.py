"""Views of sequences: a window, scaled channels, noise, channels left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, interpolate, max_pool1d

from kindred.data.counter import uniforms, words
from kindred.data.sequences.source import Scaling
from kindred.data.views import Views
from kindred.errors import ConfigError
from kindred.values import NotNegative, Positive, Share

BANDS = 32  # of the spectrum, as a base line
LANE, WIDTH, LANES = 24, 96, 6  # of a picture: pixels of a channel's height and width, channels that are drawn
PAPER, INK = 255, 40


class Draw(IntEnum):
    """Which uniform decides what; channels have one each from CHANNELS on."""

    FILE = 0  # where a source that streams cuts its examples
    CROP = 1
    CHANNELS = 2  # C of the scaling, then C of the dropout


@dataclass(frozen=True)
class SequenceView:
    """How one view of a sequence is made; operations run in the order of the fields.

    Args:
        crop: share of the steps that a window has; it begins anywhere, and stays as long as it is.
        scale: (low, high) factor of a channel, about its mean; the log of it is uniform, each channel's drawn for itself.
        jitter: standard deviation of normal noise, in units of the channel's own over the train examples.
        drop: probability that a channel is left out (zero); if that is all of them, none is.
    """

    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    jitter: NotNegative = 0.0
    drop: Share = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is {list(self.scale)}: give two factors above 0, the smaller first")


class SequenceViews(Views):
    """V views of sequences [B, C, T], or of crops [B, V, C, T] that a source has cut, in units of the scaling.

    Each is drawn as a function of (seed, epoch, index, view).

    Args:
        views: settings of each.
        seed: of all draws.
    """

    base_line, input_name = "spectrum", "sequences"
    preparation = """import json

import torch

scaling = json.load(open("scaling.json"))
mean, std = (torch.tensor(scaling[name])[:, None] for name in ("mean", "std"))
sequences = (recordings - mean) / std"""

    def __init__(self, views: Sequence[SequenceView], seed: int = 0) -> None:
        self.views, self.seed = list(views), seed
        self.expect(Scaling([0.0], [1.0]))

    def expect(self, scaling: Scaling) -> None:
        """What inputs are scaled by: the values of any source become comparable, and noise has a unit."""
        self._mean, self._std = (torch.tensor(values)[:, None] for values in scaling)

    def __len__(self) -> int:
        return len(self.views)

    def crop_starts(self, view: int, index: Tensor, epoch: int, steps: Tensor, length: int) -> Tensor:
        """Where a source cuts the crops of a view out of sequences of `steps` (int64 [B]), `length` of them: int64 [B]."""
        draws = uniforms(self.seed, epoch, view, index, Draw.FILE + 1)[:, Draw.FILE]
        # In float64, which counts any steps; numbers on the host, where files are read.
        return (draws.double() * (steps - length + 1)).long()

    def augment(self, raw: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, ...]:
        return tuple(
            self._view(raw[:, number] if raw.ndim == 4 else raw, index, epoch, number, view)
            for number, view in enumerate(self.views)
        )

    def _view(self, raw: Tensor, index: Tensor, epoch: int, number: int, view: SequenceView) -> Tensor:
        inputs = self.plain(raw)
        channels, steps = inputs.shape[1:]
        draws = uniforms(self.seed, epoch, number, index, Draw.CHANNELS + 2 * channels)
        if (length := max(1, round(view.crop * steps))) < steps:
            start = (draws[:, Draw.CROP] * (steps - length + 1)).long()
            place = start[:, None] + torch.arange(length, device=raw.device)
            inputs = inputs.gather(2, place[:, None].expand(-1, channels, -1))
        of_channels = draws[:, Draw.CHANNELS :].unflatten(1, (2, channels))
        low, high = view.scale
        if (low, high) != (1.0, 1.0):
            inputs = inputs * (low * (high / low) ** of_channels[:, 0, :, None])
        if view.jitter:
            # Draws of their own: as many whatever else the view does.
            drawn = words(self.seed, epoch, len(self) + number, index, channels * inputs.shape[2])
            inputs = inputs + view.jitter * normals(drawn).view_as(inputs)
        if view.drop:
            kept = of_channels[:, 1] >= view.drop
            inputs = inputs * (kept | ~kept.any(dim=1, keepdim=True))[:, :, None]
        return inputs

    def plain(self, raw: Tensor) -> Tensor:
        """The scaled sequences float32 [B, C, T], without draws."""
        if self._mean.device != raw.device:  # once: a device waits for such a copy
            self._mean, self._std = self._mean.to(raw.device), self._std.to(raw.device)
        return (raw.float() - self._mean) / self._std

    def as_features(self, inputs: Tensor) -> Tensor:
        """Spectrum and statistics of each channel [B, C * (BANDS + 4)]: what a look without learning tells.

        The root of the mean magnitude of up to BANDS bands of the spectrum, and mean, deviation, least and largest value.
        """
        inputs = inputs.float()
        magnitudes = torch.fft.rfft(inputs).abs()[:, :, 1:] / inputs.shape[2] ** 0.5
        bands = adaptive_avg_pool1d(magnitudes, min(BANDS, max(1, magnitudes.shape[2])))
        statistics = torch.stack([inputs.mean(2), inputs.std(2, correction=0), inputs.amin(2), inputs.amax(2)], dim=2)
        return torch.cat([bands.sqrt(), statistics], dim=2).flatten(1)

    def pictures(self, inputs: Tensor) -> Tensor:
        """A line for each of the first LANES channels, one above the other: uint8 [B, 1, lanes * LANE, WIDTH].

        A lane spans three deviations of its channel to either side of the mean; what lies beyond is at its edge.
        """
        lines = inputs[:, :LANES].float()
        points = max(4, -(-(lines.shape[2] - 1) // WIDTH))  # of a column, which shares its ends with those beside it
        lines = interpolate(lines, points * WIDTH + 1, mode="linear", align_corners=True)
        largest, least = (sign * max_pool1d(sign * lines, points + 1, points) for sign in (1, -1))
        height = torch.arange(LANE, device=inputs.device)[:, None]
        top, bottom = ((((3 - value) / 6).clamp(0, 1) * (LANE - 1)).round()[:, :, None] for value in (largest, least))
        inked = (height >= top) & (height <= bottom)
        return torch.where(inked, INK, PAPER).to(torch.uint8).flatten(1, 2)[:, None]


def normals(words: Tensor) -> Tensor:
    """Normal numbers float32 of random 64-bit words, one each, by Box and Muller (1958)."""
    first = ((words >> 40) & 0xFFFFFF).to(torch.float32).add_(1).mul_(2.0**-24)  # in (0, 1]: its log is finite
    second = ((words >> 16) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)
    return (-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()
