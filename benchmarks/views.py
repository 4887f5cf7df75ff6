"""Views per second of processor time on one thread: Kindred's batched augmentation against lightly, torchvision and Kornia.

    python benchmarks/views.py [--output benchmarks/results] [--repeats 7] [--quick]

Two recipes on cuts of scikit-image's photographs: SimCLR's for CIFAR-10 (32x32, batch 512: crop 0.08-1, flip, jitter
.4/.4/.4/.1 with probability 0.8, grey 0.2) and SimCLR's for ImageNet (256x256 to 224x224, batch 16: strength 1.0, and a
blur of half of the views). Everybody starts from what its users hold: PIL images for lightly, uint8 tensors for the others,
and ends with float tensors in [0, 1] that are not yet normalised. Kornia crops in its faster mode of the two. The peers take
turns, so that a slow moment of the machine hits all of them; a rate is the median over the turns. Time is the process's
processor time, which waiting for other programs does not lengthen.

Measured on one of two cores of an Intel Xeon, torch 2.15 (results/views.md):
32x32: 9,688 views/s, 11.0 times lightly, 15.2 times torchvision, 2.9 times Kornia;
224x224 with blur: 171 views/s, 1.4 times lightly, 7.7 times torchvision, 3.5 times Kornia.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import save
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from kindred.data.images.views import MultiView, View

PACKAGES = ("torch", "torchvision", "lightly", "kornia", "pillow")


def photograph_cuts(count: int, side: int) -> Tensor:
    """Squares from scikit-image's photographs, uint8 [count, 3, side, side]."""
    from skimage import data

    photographs = [
        torch.from_numpy(image).permute(2, 0, 1) for image in (data.astronaut(), data.chelsea(), data.coffee())
    ]
    generator = torch.Generator().manual_seed(0)
    cuts = []
    for number in range(count):
        image = photographs[number % len(photographs)]
        top, left = (int(torch.randint(0, edge - side + 1, (), generator=generator)) for edge in image.shape[1:])
        cuts.append(image[:, top : top + side, left : left + side])
    return torch.stack(cuts)


def jitter_of(strength: float) -> list[float]:
    """Brightness, contrast, saturation and hue of SimCLR's jitter."""
    return [0.8 * strength] * 3 + [0.2 * strength]


def simclr_views(size: int, strength: float, blur: float) -> MultiView:
    """Kindred's two views by SimCLR's recipe."""
    brightness, contrast, saturation, hue = jitter_of(strength)
    view = View(
        size=size,
        jitter=0.8,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        gray=0.2,
        blur=blur,
    )
    return MultiView([view, view], seed=0)


def contestants(images: Tensor, size: int, strength: float, blur: float, share: int) -> dict[str, tuple[int, Callable]]:
    """name -> (number of views of one turn, the turn); per-image peers take every `share`-th image of the batch."""
    import kornia.augmentation as K
    from lightly.transforms import SimCLRTransform

    jitter = jitter_of(strength)
    kindred = simclr_views(size, strength, blur)
    index = torch.arange(len(images))

    lightly = SimCLRTransform(input_size=size, cj_strength=strength, gaussian_blur=blur, normalize=None)
    some = images[::share]
    pictures = [to_pil_image(image) for image in some]

    blurs = [v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], blur)] if blur else []
    torchvision = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*jitter)], 0.8),
            v2.RandomGrayscale(0.2),
            *blurs,
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def kornia(cropping_mode: str) -> K.AugmentationSequential:
        return K.AugmentationSequential(
            K.RandomResizedCrop((size, size), scale=(0.08, 1.0), cropping_mode=cropping_mode),
            K.RandomHorizontalFlip(p=0.5),
            K.ColorJitter(*jitter, p=0.8),
            K.RandomGrayscale(p=0.2),
            *([K.RandomGaussianBlur((23, 23), (0.1, 2.0), p=blur)] if blur else []),
            data_keys=["input"],
        )

    modes = {f"Kornia, {mode} crop": kornia(mode) for mode in ("slice", "resample")}

    def batched(augment: Callable) -> tuple[int, Callable]:
        return 2 * len(images), lambda: [augment(images.to(torch.float32) / 255) for _ in range(2)]

    return {
        "Kindred": (2 * len(images), lambda: kindred(images, index, 0)),
        "lightly SimCLRTransform, PIL": (2 * len(some), lambda: [lightly(picture) for picture in pictures]),
        "torchvision v2, tensor": (2 * len(some), lambda: [torchvision(image) for image in some for _ in range(2)]),
        **{name: batched(augment) for name, augment in modes.items()},
    }


def measure(turns: dict[str, tuple[int, Callable]], repeats: int) -> dict[str, list[float]]:
    """Views per second of processor time in every turn, after one that is not counted."""
    rates = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, (views, turn) in turns.items():
            start = time.process_time()
            turn()
            if repeat:
                rates[name].append(views / (time.process_time() - start))
    return rates


def table(title: str, rates: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"| {title} | views/s | slowest to fastest | Kindred is |", "|---|---:|---:|---:|"]
    for name, values in rates.items():
        times = f"{medians['Kindred'] / medians[name]:.1f}x" if name != "Kindred" else ""
        lines.append(f"| {name} | {medians[name]:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for views.json and views.md")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument(
        "--quick", action="store_true", help="a few images, two turns: shows that it works, measures nothing"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the peers draw from the global generator

    small, large, share = (32, 2, 4) if arguments.quick else (512, 16, 4)
    repeats = 2 if arguments.quick else arguments.repeats
    recipes = {
        f"32x32, batch {small}, no blur": contestants(photograph_cuts(small, 32), 32, 0.5, 0.0, share),
        f"224x224 from 256x256, batch {large}, blur": contestants(photograph_cuts(large, 256), 224, 1.0, 0.5, share),
    }
    results = {title: measure(turns, repeats) for title, turns in recipes.items()}

    markdown = "\n\n".join(table(title, rates) for title, rates in results.items())
    save(arguments.output, "views", markdown, results, PACKAGES, f"one thread, views per second, {repeats} turns")


if __name__ == "__main__":
    main()
