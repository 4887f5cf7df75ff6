"""The one DataModule that every method shares."""

from typing import NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kindred.data.images.arrays import ImageArray, ImageFiles
from kindred.data.images.streaming import FileImages
from kindred.data.images.views import MultiView
from kindred.data.loading import ArrayImages, Batch, DealtBatches, GlobalBatches, Images, Loader, TrainLoader
from kindred.data.order import stratified_order
from kindred.data.source import Source


class ViewBatch(NamedTuple):
    """What methods see: normalised views. Training: V augmented ones; evaluation: one, unaugmented."""

    views: tuple[Tensor, ...]  # V times float32 [B, C, H, W]
    labels: Tensor  # int64 [B], -1: unlabelled
    index: Tensor  # int64 [B]


class MultiViewDataModule(lightning.LightningDataModule):
    """Cuts a source into train, bank and query images and turns their batches into views on the device.

    Train images are contrasted. Bank images (the labelled train images, unaugmented) and query images (held out) judge
    the representation. Test images are read by `test_dataset` only, or with `val_size=0`.

    After setup(): `train`, `bank`, `query` (datasets: len, `labels`, `__getitems__`), `class_names`, `num_classes`,
    `train_is_labelled` and `monitor`, the prefix of metrics on the query images: "val", or "test" with `val_size=0`.

    Args:
        source: where the images come from.
        views: how a train image is augmented.
        batch_size: the global batch: the images contrasted in one loss, on all ranks together.
        image_size: height and width of evaluation images in pixels; in-memory images of another size are resized.
        channels: of the images; like `image_size` declared, since the encoder's configuration refers to it.
        val_size: images (int) or share of the labelled train images (float) held out of train as query images, by a
            stratified permutation that is the same in all runs. None: the source's own val split, else 0.1.
            0: the query images are the source's test split.
        train_size: train on a stratified subset of this many images (always the same); the bank is those images too.
        eval_batch_size: per rank.
        num_workers: loader processes per rank, useful for images that are streamed from files.
        seed: of the sample order.

    Raises:
        ValueError: in setup(), naming the key, when the numbers do not fit the source or the number of ranks.
    """

    def __init__(
        self,
        source: Source,
        views: MultiView,
        batch_size: int,
        image_size: int,
        channels: int,
        val_size: int | float | None = None,
        train_size: int | None = None,
        eval_batch_size: int = 512,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if len(views.views) < 2:
            raise ValueError(f"views.views has {len(views.views)} view(s): contrasting needs at least 2")
        if val_size is not None and (val_size < 0 or (isinstance(val_size, float) and val_size >= 1)):
            raise ValueError(f"data.val_size is {val_size}: give a number of images, a share below 1.0, 0 or null")
        self.source, self.views = source, views
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.image_size, self.channels = image_size, channels
        self.val_size, self.train_size, self.seed = val_size, train_size, seed
        self.monitor = "test" if val_size == 0 else "val"
        self.train: Images | None = None
        self._statistics: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        self.check_batch_size(self._rank()[1])
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        if self.train is not None:
            return
        self.check_batch_size(self._rank()[1])
        if self.trainer is None:  # a notebook: nobody else calls it
            self.source.prepare()
        train, bank = self.source.load("train"), self.source.load("bank")
        self._check_source(train)
        self.class_names = list(self.source.class_names)
        self.num_classes = len(self.class_names)
        self.train_is_labelled = bool((train.labels >= 0).all())

        labelled = train if bank is None else bank
        self.query, kept = self._hold_out(labelled)
        positions = self._subset(train.labels, kept if bank is None else np.arange(len(train.labels)))
        if self.batch_size > len(positions):
            raise ValueError(
                f"data.batch_size is {self.batch_size}, but there are only {len(positions)} train images: "
                "one batch must fit into an epoch"
            )
        self.bank = self._dataset(labelled, positions if bank is None else kept)
        self.train = self._dataset(train, positions)

    def _hold_out(self, labelled: ImageArray | ImageFiles) -> tuple[Images, np.ndarray]:
        """The query images, and the positions of the labelled ones that are left."""
        everything = np.arange(len(labelled.labels))
        if self.val_size == 0:
            return self.test_dataset(), everything
        own = self.source.load("val")
        if own is None:
            held_out, kept = stratified_order(labelled.labels, [self._held_out(len(everything))])
            return self._dataset(labelled, held_out), kept
        if self.val_size is not None:
            raise ValueError(
                f"data.val_size is {self.val_size}, but {self.source.name} has a val split of its own "
                f"({len(own.labels)} images): leave data.val_size=null to use it, or 0 to monitor on test"
            )
        return self._dataset(own, np.arange(len(own.labels))), everything

    def _held_out(self, images: int) -> int:
        size = 0.1 if self.val_size is None else self.val_size
        count = round(size * images) if isinstance(size, float) else size
        if not 0 < count < images:
            raise ValueError(
                f"data.val_size is {self.val_size}: that is {count} of the {images} labelled images of "
                f"{self.source.name}; some must be left on either side"
            )
        return count

    def _subset(self, labels: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """`train_size` of the positions."""
        if self.train_size is None:
            return positions
        if not 0 < self.train_size <= len(positions):
            raise ValueError(
                f"data.train_size is {self.train_size}: {self.source.name} has {len(positions)} images to "
                "train on, so give a number from 1 to that, or null for all"
            )
        return positions[stratified_order(labels[positions], [self.train_size], seed=1)[0]]

    def test_dataset(self) -> Images:
        """The source's official test images. Training never reads them, unless `val_size` is 0."""
        test = self.source.load("test")
        return self._dataset(test, np.arange(len(test.labels)))

    def train_dataloader(self) -> TrainLoader:
        rank, ranks = self._rank()
        batches = GlobalBatches(len(self.train), self.batch_size, self.seed, rank, ranks)
        workers_stay = self.num_workers > 0 and isinstance(self.train, FileImages)
        return TrainLoader(self.train, batches, persistent_workers=workers_stay, **self._loader_options())

    def val_dataloader(self) -> list[Loader]:
        """[bank, query]. Rank r's j-th image of each is the image at position r + j * (number of ranks)."""
        return [self.eval_dataloader(self.bank, "bank"), self.eval_dataloader(self.query, "query")]

    def eval_dataloader(self, dataset: Images, name: str) -> Loader:
        """Reads this rank's share of `dataset`, in order, each image once; `name` is for the error."""
        rank, ranks = self._rank()
        if len(dataset) < ranks:
            raise ValueError(
                f"there are {len(dataset)} {name} images for {ranks} devices: each needs one, so use fewer "
                "trainer.devices, or a larger data.val_size or data.train_size"
            )
        batches = DealtBatches(len(dataset), self.eval_batch_size, rank, ranks)
        return Loader(dataset, batches, **self._loader_options())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> ViewBatch:
        if self.trainer is not None and self.trainer.training:
            views = self.views(batch.images, batch.index, self.trainer.current_epoch)
        else:
            views = (self._as_evaluated(batch.images),)
        return ViewBatch(tuple(self.normalize(view) for view in views), batch.labels, batch.index)

    def normalize(self, images: Tensor) -> Tensor:
        """float [..., C, H, W] in [0, 1] -> zero mean and unit variance per channel over the source's train images."""
        if images.device not in self._statistics:  # copied once: a copy per batch would wait for the device
            self._statistics[images.device] = tuple(
                torch.tensor(value, dtype=torch.float32, device=images.device).view(-1, 1, 1)
                for value in (self.source.mean, self.source.std)
            )
        mean, std = self._statistics[images.device]
        return (images - mean) / std

    def _as_evaluated(self, images: Tensor) -> Tensor:
        images = images.float() / 255
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        return images

    def _dataset(self, images: ImageArray | ImageFiles, positions: np.ndarray) -> Images:
        if isinstance(images, ImageArray):
            return ArrayImages(images, positions)
        return FileImages(images, positions, self.views, self.image_size, self.channels)

    def _rank(self) -> tuple[int, int]:
        """(rank, number of ranks)"""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader_options(self) -> dict:
        on_gpu = torch.cuda.is_available() if self.trainer is None else self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.num_workers, "pin_memory": on_gpu}

    def check_batch_size(self, ranks: int) -> None:
        """Raise a ValueError if the global batch cannot be dealt evenly to `ranks` ranks."""
        if self.batch_size < 1 or self.batch_size % ranks:
            below = self.batch_size // ranks * ranks
            sizes = " or ".join(str(size) for size in (below, below + ranks) if size > 0)
            raise ValueError(
                f"data.batch_size is {self.batch_size}, the images on all devices together: it cannot be dealt "
                f"evenly to {ranks} device(s); {sizes} can"
            )

    def _check_source(self, train: ImageArray | ImageFiles) -> None:
        name, statistics = self.source.name, len(self.source.mean)
        if isinstance(train, ImageArray):
            channels, size = train.images.shape[1], train.images.shape[-1]
            if channels != self.channels:
                raise ValueError(f"data.channels is {self.channels}, but {name} images have {channels}")
            if size != self.image_size and any(view.size is None for view in self.views.views):
                raise ValueError(
                    f"data.image_size is {self.image_size}, but {name} images are {size}x{size} and views.views "
                    f"leaves them so (size: null): set data.image_size={size}, or the views' size"
                )
        if statistics != self.channels or len(self.source.std) != self.channels:
            raise ValueError(
                f"data.source.mean and std have {statistics} and {len(self.source.std)} values: "
                f"data.channels={self.channels} needs {self.channels} each"
            )
