"""Images as a source gives them: decoded, or as files still to be decoded."""

import os
from typing import NamedTuple

import numpy as np


class ImageArray(NamedTuple):
    """Decoded images: `images` uint8 [N, C, H, W] (may be memory-mapped), `labels` int64 [N] (-1: unlabelled)."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def margin(self) -> int:
        """Pixels at each side that evaluation does not look at."""
        return 0


class PackedArray(ImageArray):
    """Decoded images with room for training's crops: evaluation looks at 7/8 of each side, as at 224 of 256 pixels."""

    @property
    def margin(self) -> int:
        return self.images.shape[-1] // 16


class ImageFiles(NamedTuple):
    """Images still to be decoded: `folder` / `names`[i] (bytes, so that workers share them), `labels` int64 [N]."""

    folder: str
    names: np.ndarray
    labels: np.ndarray

    def path(self, position: int) -> str:
        return f"{self.folder}/{os.fsdecode(self.names[position])}"
