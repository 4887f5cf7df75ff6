"""The DataModule of images."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from annotated_types import Ge, Gt, Le, Lt

from kindred.data.datamodule import DataModule
from kindred.data.images.files import ImageFiles
from kindred.data.images.views import MultiView
from kindred.data.images.views.view import needs_colours
from kindred.data.source import ArrayExamples, Source
from kindred.errors import ConfigError
from kindred.values import Count, Whole


class ImageSource(Source, Protocol):
    """What is asked of a source of images."""

    mean: Sequence[float]  # per channel, of pixels in [0, 1]
    std: Sequence[float]


class ImageDataModule(DataModule):
    """Tells the views which images to expect, and refuses those that are others.

    Args:
        source: whose `mean` and `std` the views normalise by.
        image_size: height and width of evaluation images in pixels; in-memory images of another size are resized.
        channels: of the images; like `image_size` declared, since the encoder's configuration refers to it.
        views, batch_size, val_size, train_size, eval_batch_size, num_workers, seed, labels, label_seed, unlabelled: see
            DataModule.
    """

    source: ImageSource
    views: MultiView

    def __init__(
        self,
        source: ImageSource,
        views: MultiView,
        batch_size: Count,
        image_size: Count,
        channels: Count,
        val_size: Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)] | None = None,
        train_size: Count | None = None,
        eval_batch_size: Count = 512,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: int = 0,
        labels: Annotated[float, Gt(0), Le(1)] = 1.0,
        label_seed: Whole = 0,
        unlabelled: bool = True,
    ):
        settings = val_size, train_size, eval_batch_size, num_workers, seed, labels, label_seed, unlabelled
        super().__init__(source, views, batch_size, *settings)
        self.image_size, self.channels = image_size, channels
        if channels not in (1, 3) and (coloured := needs_colours(views.views)):
            raise ConfigError(
                f"views.{coloured}: changes colours, which data.channels={channels} are not: set saturation, hue and gray "
                "to 0, as VIEWS=channels does"
            )
        views.expect(image_size, source.mean, source.std)

    def setup(self, stage: str | None = None) -> None:
        if not self.is_set_up:
            super().setup(stage)
            self._check_images()

    def _check_images(self) -> None:
        examples, name, views = self.train.examples, self.source.name, self.views.views
        if isinstance(examples, ArrayExamples):
            channels, size = examples.array.shape[1], examples.array.shape[-1]
            if channels != self.channels:
                raise ConfigError(f"data.channels is {self.channels}, but {name} images have {channels}")
            if size != self.image_size and any(view.size is None for view in views):
                raise ConfigError(
                    f"data.image_size is {self.image_size}, but {name} images are {size}x{size} and views.views "
                    f"leaves them so (size: null): set data.image_size={size}, or the views' size"
                )
        sizes = sorted({view.size or self.image_size for view in views})
        if isinstance(examples, ImageFiles) and len(sizes) > 1:
            raise ConfigError(
                f"views.views have sizes {sizes}: views of streamed images travel as one array, so give all one size"
            )
        mean, std = len(self.source.mean), len(self.source.std)
        if mean != self.channels or std != self.channels:
            raise ConfigError(
                f"data.source.mean and std have {mean} and {std} values: "
                f"data.channels={self.channels} needs {self.channels} each"
            )
