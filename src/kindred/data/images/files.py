"""Images too large to hold decoded: the loader's workers decode and crop them, the device does the rest."""

import os
from typing import NamedTuple

import numpy as np
import torch

from kindred.data.images.formats.decoding import Picture, Reading, decode
from kindred.data.images.views import MultiView
from kindred.errors import ConfigError

CHUNK = 16  # images held decoded at a time: photographs of many megapixels need memory, and boxes are drawn per chunk


class ImageFiles(NamedTuple):
    """Images that are decoded when they are read.

    Training reads every view's crop from one decoding. Its box is `views.crop_boxes`: a function of (seed, epoch,
    index, view), so neither the number of workers nor the worker matters. Evaluation reads the usual central crop:
    shorter side at size * 256 / 224, then the middle.
    """

    folder: str
    names: np.ndarray  # bytes [N], below the folder; not str, so that workers share them
    labels: np.ndarray
    image_size: int  # of evaluation, and of training's views where they do not say another
    reading: Reading

    def path(self, position: int) -> str:
        return f"{self.folder}/{os.fsdecode(self.names[position])}"

    def read(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [B, C, image_size, image_size]

        Raises:
            ValueError: a file that cannot be decoded.
        """
        enlarged = round(self.image_size * 256 / 224)
        return np.stack([self._decode(position).centre(self.image_size, enlarged) for position in positions])

    def read_train(self, positions: np.ndarray, epoch: int, views: MultiView) -> np.ndarray:
        """uint8 [B, V, C, size, size]: the crops of V views; see `read`."""
        chunks = [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]
        return np.stack([crop for chunk in chunks for crop in self._crops(chunk, epoch, views)])

    def _crops(self, positions: np.ndarray, epoch: int, views: MultiView) -> list[np.ndarray]:
        images = [self._decode(position) for position in positions]
        index = torch.from_numpy(positions)
        heights, widths = torch.tensor([(image.height, image.width) for image in images]).T
        drawn = [views.crop_boxes(v, index, epoch, heights, widths) for v in range(len(views))]
        boxes, size = torch.stack(drawn, dim=1).tolist(), views.views[0].size or self.image_size
        return [np.stack([image.crop(size, *box) for box in each]) for image, each in zip(images, boxes, strict=True)]

    def _decode(self, position: int) -> Picture:
        try:
            return decode(self.path(position), self.reading)
        except ValueError as error:
            raise ConfigError(f"{error}; data.source.on_bad_image=skip leaves such files out") from error
