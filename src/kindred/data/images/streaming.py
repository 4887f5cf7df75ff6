"""Images too large to hold decoded: the loader's workers decode and crop them, the device does the rest."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from kindred.data.images.arrays import ImageFiles
from kindred.data.images.decoding import centre, decode, pixels
from kindred.data.images.views import MultiView
from kindred.data.loading import Batch

CHUNK = 16  # images held decoded at a time: photographs of many megapixels need memory, and boxes are drawn per chunk


class FileImages:
    """Some of the images in `files`, chosen by `positions` (int64 [N]), decoded when they are read.

    Training reads every view's crop from one decoding. Its box is `views.crop_boxes`: a function of (seed, epoch,
    index, view), so neither the number of workers nor the worker matters. Evaluation reads the usual central crop:
    shorter side at size * 256 / 224, then the middle.

    Raises:
        ValueError: views of several sizes; when read, a file that cannot be decoded.
    """

    def __init__(self, files: ImageFiles, positions: np.ndarray, views: MultiView, image_size: int, channels: int):
        self.files, self.positions, self.views = files, positions, views
        self.image_size, self.channels = image_size, channels
        sizes = sorted({view.size or image_size for view in views.views})
        if len(sizes) > 1:
            raise ValueError(
                f"views.views have sizes {sizes}: views of streamed images travel as one array, so give all one size"
            )
        self.crop_size = sizes[0]

    @property
    def labels(self) -> np.ndarray:
        return self.files.labels[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, items: Any) -> Batch:
        """images uint8 [B, C, image_size, image_size]"""
        enlarged = round(self.image_size * 256 / 224)
        positions = self.positions[items]
        images = [pixels(centre(self._decode(position), self.image_size, enlarged)) for position in positions]
        return self._batch(images, positions)

    def train_items(self, items: np.ndarray, epoch: int) -> Batch:
        """images uint8 [B, V, C, size, size]: the crops of V views"""
        positions = self.positions[items]
        chunks = [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]
        return self._batch([crop for chunk in chunks for crop in self._crops(chunk, epoch)], positions)

    def _crops(self, positions: np.ndarray, epoch: int) -> list[np.ndarray]:
        images = [self._decode(position) for position in positions]
        index = torch.from_numpy(positions)
        heights, widths = torch.tensor([(image.height, image.width) for image in images]).T
        drawn = [self.views.crop_boxes(v, index, epoch, heights, widths) for v in range(len(self.views.views))]
        boxes = torch.stack(drawn, dim=1).tolist()
        return [np.stack([self._crop(image, *box) for box in each]) for image, each in zip(images, boxes, strict=True)]

    def _crop(self, image: Image.Image, top: int, left: int, height: int, width: int) -> np.ndarray:
        """What torchvision's resized_crop makes of a PIL image: bilinear, antialiased."""
        box = image.crop((left, top, left + width, top + height))
        return pixels(box.resize((self.crop_size, self.crop_size), Image.Resampling.BILINEAR))

    def _decode(self, position: int) -> Image.Image:
        try:
            return decode(self.files.path(position), self.channels)
        except ValueError as error:
            raise ValueError(f"{error}; data.source.on_bad_image=skip leaves such files out") from error

    def _batch(self, images: list[np.ndarray], positions: np.ndarray) -> Batch:
        labels = torch.from_numpy(self.files.labels[positions])
        return Batch(torch.from_numpy(np.stack(images)), labels, torch.from_numpy(positions))
