"""torchvision's small data sets, downloaded when absent. Their arrays are used as they are, never image by image."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kindred.data.inventory import Files, look_up
from kindred.data.source import ArrayExamples
from kindred.errors import KindredError


class DownloadError(KindredError, RuntimeError):
    """A data set that is not there, and cannot be fetched."""


class _TorchvisionSource:
    """Reads one data set below `root`, each split once. Subclasses name the files and open a split."""

    skipped = 0
    name: str
    files: str  # what the download would have brought, relative to root
    url: str
    splits: ClassVar[dict[str, str]]  # split -> the files that it is read from, relative to root

    def __init__(self, root: str = "data"):
        self.root = str(root)
        self.class_names: list[str] = []
        self._read: dict[str, ArrayExamples] = {}

    def prepare(self) -> None:
        for split in self.splits:
            try:
                self._read[split] = self._images(self._open(split, download=True))
            except (OSError, RuntimeError) as error:  # no network, no such host, a truncated or corrupt file
                raise DownloadError(
                    f"{self.name} is not complete in data.source.root={self.root} and cannot be downloaded ({error}). "
                    f"Put {self.files} into {os.path.abspath(self.root)} (from {self.url}), or set data.source.root "
                    "to where it is. DATA=photos needs no download"
                ) from error

    def load(self, split: str) -> ArrayExamples | None:
        if split not in self.splits:
            return None
        if split not in self._read:  # this process is not the one that prepared
            self._read[split] = self._images(self._open(split, download=False))
        return self._read[split]

    def inventory(self, split: str) -> Files | None:
        """The files of `split`, as downloaded and unpacked."""
        if split not in self.splits:
            return None
        root = Path(self.root)
        return look_up(root, [str(path.relative_to(root)) for path in root.glob(self.splits[split])])

    def _open(self, split: str, download: bool) -> Any:
        """The torchvision data set."""
        raise NotImplementedError

    def _images(self, dataset: Any) -> ArrayExamples:
        raise NotImplementedError


class CIFAR10(_TorchvisionSource):
    """60,000 colour photographs of 32x32 in 10 classes."""

    name = "cifar10"
    files = "cifar-10-python.tar.gz"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    splits = {"train": "cifar-10-batches-py/data_batch_?", "test": "cifar-10-batches-py/test_batch"}
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        return datasets.CIFAR10(self.root, train=split == "train", download=download)

    def _images(self, dataset: Any) -> ArrayExamples:
        self.class_names = list(dataset.classes)
        images = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
        return ArrayExamples(images, np.asarray(dataset.targets, dtype=np.int64))


class CIFAR100(CIFAR10):
    """60,000 colour photographs of 32x32 in 100 classes."""

    name = "cifar100"
    files = "cifar-100-python.tar.gz"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    splits = {"train": "cifar-100-python/train", "test": "cifar-100-python/test"}
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        return datasets.CIFAR100(self.root, train=split == "train", download=download)


class MNIST(_TorchvisionSource):
    """70,000 grey handwritten digits of 28x28."""

    name = "mnist"
    files = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    splits = {"train": "MNIST/raw/train-*-ubyte", "test": "MNIST/raw/t10k-*-ubyte"}
    mean = (0.1307,)
    std = (0.3081,)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        return datasets.MNIST(self.root, train=split == "train", download=download)

    def _images(self, dataset: Any) -> ArrayExamples:
        self.class_names = list(dataset.classes)
        return ArrayExamples(dataset.data.numpy()[:, None], dataset.targets.numpy().astype(np.int64))


class FashionMNIST(MNIST):
    """70,000 grey pictures of clothes of 28x28 in 10 classes."""

    name = "fashionmnist"
    files = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    splits = {"train": "FashionMNIST/raw/train-*-ubyte", "test": "FashionMNIST/raw/t10k-*-ubyte"}
    mean = (0.2860,)
    std = (0.3530,)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        return datasets.FashionMNIST(self.root, train=split == "train", download=download)


class SVHN(_TorchvisionSource):
    """99,289 colour photographs of house numbers' digits, 32x32 (without the "extra" split)."""

    name = "svhn"
    files = "train_32x32.mat and test_32x32.mat"
    url = "http://ufldl.stanford.edu/housenumbers/"
    splits = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        return datasets.SVHN(self.root, split=split, download=download)

    def _images(self, dataset: Any) -> ArrayExamples:
        self.class_names = [str(digit) for digit in range(10)]
        return ArrayExamples(dataset.data, dataset.labels.astype(np.int64))


class STL10(_TorchvisionSource):
    """Colour photographs of 96x96: 100,000 unlabelled ones to train on, 5,000 labelled for bank and probe, 8,000 test.

    Val images are cut from the labelled 5,000. Mean and deviation are those of the labelled train images.
    """

    name = "stl10"
    files = "stl10_binary.tar.gz"
    url = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
    splits = {
        "train": "stl10_binary/unlabeled_X.bin",
        "bank": "stl10_binary/train_?.bin",
        "test": "stl10_binary/test_?.bin",
    }
    mean = (0.4467, 0.4398, 0.4066)
    std = (0.2603, 0.2566, 0.2713)

    def _open(self, split: str, download: bool) -> Any:
        from torchvision import datasets

        folds = {"train": "unlabeled", "bank": "train", "test": "test"}
        return datasets.STL10(self.root, split=folds[split], download=download)

    def _images(self, dataset: Any) -> ArrayExamples:
        self.class_names = list(dataset.classes)
        return ArrayExamples(dataset.data, dataset.labels.astype(np.int64))
