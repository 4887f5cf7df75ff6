"""An encoder with the normalisation of its images inside, as it is exported."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NormalizedEncoder(nn.Module):
    """An encoder that normalises its images itself: float32 [B, C, S, S] in [0, 1] -> features [B, F].

    Args:
        encoder: normalised images [B, C, S, S] -> features [B, F].
        mean, std: per channel, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder((images - self.mean) / self.std)
