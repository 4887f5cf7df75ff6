"""Large images: from JPEG files to two views of 224x224, per second and core.

    python benchmarks/loading.py [--output benchmarks/results] [--repeats 5] [--tiny]

Files are cuts of 500x375 from scikit-image's photographs, JPEG quality 95: the size of ImageNet's. The peer is
torchvision's ImageFolder with lightly's SimCLRTransform; it too makes both views from one decoding, all of it in the
loader's workers. Kindred's workers decode and crop, and the device does the rest: the first row compares what workers
deliver, which is what bounds training on a GPU; the second has one core do everything on both sides; the third is the
packed cache (`data.source.pack=256`) against streaming, its file already in the system's cache. Processor time of one
thread, in which neither waiting nor other programs count.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from measure import alternate, threads
from PIL import Image
from report import Row, save_rows
from torch.utils.data import default_collate
from torchvision.datasets import ImageFolder as TorchvisionFolder

from kindred.data.images.folder import ImageFolder
from kindred.data.images.views import MultiView, View
from kindred.data.loading import Subset
from kindred.data.source import ArrayExamples

SIMCLR = View(size=224, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gray=0.2, blur=0.5)


def write_files(folder: Path, count: int) -> None:
    """`count` JPEG files of 500x375 in folder/train/<photograph>/."""
    from skimage import data

    generator = np.random.default_rng(0)
    photographs = {name: getattr(data, name)() for name in ("astronaut", "coffee", "rocket", "hubble_deep_field")}
    for name, photograph in photographs.items():
        (folder / "train" / name).mkdir(parents=True)
        for number in range(-(-count // len(photographs))):
            top, left = (
                generator.integers(0, side - cut + 1) for side, cut in zip(photograph.shape, (375, 500), strict=False)
            )
            cut = Image.fromarray(photograph[top : top + 375, left : left + 500])
            cut.save(folder / "train" / name / f"{number}.jpg", quality=95)


def packed_array(folder: str) -> ArrayExamples:
    source = ImageFolder(folder, image_size=224, pack=256)
    source.prepare()
    return source.load("train")


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for loading.json and loading.md")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--tiny", action="store_true", help="few files: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    count = 4 if options.tiny else 64
    with tempfile.TemporaryDirectory() as folder, threads(1):
        write_files(Path(folder), count)
        views, items = MultiView([SIMCLR, SIMCLR], seed=0), np.arange(count)
        files = ImageFolder(folder, image_size=224, stream=True).load("train")
        images = Subset(files, items, views)
        packed = Subset(packed_array(folder), items, views)
        theirs = TorchvisionFolder(f"{folder}/train", transform=SimCLRTransform(input_size=224))

        def kindred_views() -> tuple[torch.Tensor, ...]:
            batch = images.train_items(items, epoch=0)
            return views(batch.raw, batch.index, 0)

        turns = {
            "worker": (1, lambda: images.train_items(items, epoch=0)),
            "packed": (20, lambda: packed.train_items(items, epoch=0)),
            "views": (1, kindred_views),
            "peer": (1, lambda: default_collate([theirs[item] for item in items])),
        }
        torch.manual_seed(0)  # the peer draws from the global generator
        seconds = alternate(turns, options.repeats, time.process_time)
    rates = {name: [count / each for each in turn] for name, turn in seconds.items()}
    peer = "torchvision ImageFolder + lightly SimCLRTransform"
    way, unit, sense = "files of 500x375 to two views of 224x224", "images/s/core", "times more"
    rows = [
        Row(f"{way}: what a worker delivers", peer, unit, rates["worker"], rates["peer"], sense, 1.5),
        Row(f"{way}: all on one core", peer, unit, rates["views"], rates["peer"], sense),
        Row(
            "reading squares packed at 256",
            "Kindred's streaming worker",
            unit,
            rates["packed"],
            rates["worker"],
            sense,
            5,
        ),
    ]
    save_rows(
        options.output, "loading", rows, ("torch", "torchvision", "lightly", "pillow"), "1 thread, processor time"
    )
    return rows


if __name__ == "__main__":
    main()
