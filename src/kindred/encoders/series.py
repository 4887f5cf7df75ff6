"""Strided convolutions along time, for waveforms and other series."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from kindred.errors import ConfigError
from kindred.values import Count


class Series(nn.Module):
    """The encoder of CPC's section 3.1 (van den Oord et al. 2018): convolutions along time with ReLU, each with a stride.

    Its strides and filters, [5, 4, 2, 2, 2] and [10, 8, 4, 4, 4], make a latent of every 160 samples. Features are the mean
    of the latents. Any length of a series works, from one latent up.

    Args:
        in_channels: C of the series.
        width: F, channels of every layer.
        strides, filters: steps that each layer goes at a time, and that it sees.
        normalise: "none" as in the paper; "batch", over examples and time; "channels", each latent by itself
            (layer normalisation), so that a latent tells nothing of other windows.
    """

    def __init__(
        self,
        in_channels: Count,
        width: Count = 512,
        strides: Sequence[Count] = (5, 4, 2, 2, 2),
        filters: Sequence[Count] = (10, 8, 4, 4, 4),
        normalise: Literal["none", "batch", "channels"] = "none",
    ) -> None:
        super().__init__()
        if not strides or len(strides) != len(filters):
            raise ConfigError(
                f"encoder.filters is {list(filters)} and encoder.strides {list(strides)}: give one of each for every layer"
            )
        if any(size < stride for stride, size in zip(strides, filters, strict=True)):
            raise ConfigError(
                f"encoder.filters is {list(filters)}: a filter must reach at least as far as its layer's stride, "
                f"{list(strides)}, or steps are never seen"
            )
        self.in_channels, self.num_features = in_channels, width
        layers, channels = [], in_channels
        for stride, size in zip(strides, filters, strict=True):
            # Half of the overlap at either end: a length that the strides divide gives length / stride latents.
            padding = -(-(size - stride) // 2)
            layers.append(nn.Conv1d(channels, width, size, stride, padding, bias=normalise != "batch"))
            if normalise != "none":
                layers.append(nn.BatchNorm1d(width) if normalise == "batch" else EachLatent(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.layers = nn.Sequential(*layers)

    def encode_windows(self, inputs: Tensor) -> Tensor:
        """Series [B, C, T] -> latents [B, T', F], the earliest first."""
        return self.layers(inputs).transpose(1, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Series [B, C, T] -> the mean of their latents [B, F]."""
        return self.layers(inputs).mean(dim=2)


class EachLatent(nn.LayerNorm):
    """Layer normalisation of every step by itself, of states [B, F, T]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(1, 2)).transpose(1, 2)
