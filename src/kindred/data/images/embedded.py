"""Images that need no download, since they ship with scikit-image and scikit-learn: `Photos` and `Digits`.

Both are written once as .npy files, because importing those two libraries costs more than all the rest of the data's
start-up.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from kindred.data.cache import build_once, open_array
from kindred.data.inventory import Files, look_up
from kindred.data.order import permutation, stratified_order
from kindred.data.source import ArrayExamples


class _ArraySplits:
    """Splits kept as <folder>/<split>.npy and <folder>/<split>-labels.npy."""

    skipped = 0
    version: ClassVar[int]

    def __init__(self, root: str):
        self.root = root

    @property
    def folder(self) -> Path:
        return Path(self.root) / f"v{self.version}"

    def prepare(self) -> None:
        build_once(self.folder, self._build, key="data.source.root")

    def load(self, split: str) -> ArrayExamples | None:
        if split == "bank":
            return None
        return ArrayExamples(open_array(self.folder / f"{split}.npy"), np.load(self.folder / f"{split}-labels.npy"))

    def inventory(self, split: str) -> Files | None:
        """The arrays of `split`, as they were built here."""
        return None if split == "bank" else look_up(self.folder, [f"{split}.npy", f"{split}-labels.npy"])

    def _build(self, folder: Path) -> None:
        for split, (images, labels) in self._decode().items():
            np.save(folder / f"{split}.npy", images)
            np.save(folder / f"{split}-labels.npy", labels)

    def _decode(self) -> dict[str, ArrayExamples]:
        raise NotImplementedError


class Photos(_ArraySplits):
    """8,000 colour patches of 32x32 from 16 real photographs; the class is the photograph a patch comes from.

    Each photograph (longest side at most 640, else resized to 512) is a grid of 64x64 blocks. Blocks, not patches, are
    dealt 70/15/15 to train/val/test, so that no val or test pixel is a train pixel; a block gives nine patches.

    Args:
        root: where they are kept.
        patch: side in pixels; of 64 each block is one, 886 in all.
    """

    name = "photos"
    version = 1  # raise it when anything below changes: caches carry it in their path
    class_names = [
        *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field"),
        *("immunohistochemistry", "retina", "rocket", "moon", "stereo_motorcycle", "china", "flower"),
    ]
    mean = (0.4629, 0.4055, 0.3824)
    std = (0.2808, 0.2382, 0.2451)

    def __init__(self, root: str = "data/photos", patch: Literal[32, 64] = 32):
        super().__init__(root)
        self.patch = patch

    @property
    def folder(self) -> Path:
        return super().folder if self.patch == 32 else Path(self.root) / f"v{self.version}-{self.patch}"

    def _decode(self) -> dict[str, ArrayExamples]:
        found = {"train": [], "val": [], "test": []}
        for label, name in enumerate(self.class_names):
            for split, patches in _cut(_photograph(name), seed=label, patch=self.patch).items():
                found[split].append((patches, np.full(len(patches), label)))
        return {split: ArrayExamples(*map(np.concatenate, zip(*parts, strict=True))) for split, parts in found.items()}


class Digits(_ArraySplits):
    """scikit-learn's 1,797 real 8x8 grey digits, dealt 60/20/20 per class by a fixed permutation.

    Args:
        root: where they are kept.
        channels: 1, or 3 of the same grey, for an encoder that was trained on colours (kindred evaluate --data digits).
    """

    name = "digits"
    version = 1
    class_names = [str(digit) for digit in range(10)]
    mean: tuple[float, ...] = (0.3047,)
    std: tuple[float, ...] = (0.3754,)

    def __init__(self, root: str = "data/digits", channels: Literal[1, 3] = 1):
        super().__init__(root)
        self.channels = channels
        self.mean, self.std = self.mean * channels, self.std * channels

    def load(self, split: str) -> ArrayExamples | None:
        examples = super().load(split)
        if examples is None or self.channels == 1:
            return examples
        return ArrayExamples(np.repeat(examples.array, self.channels, axis=1), examples.labels)

    def _decode(self) -> dict[str, ArrayExamples]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = bunch.target.astype(np.int64)
        order = stratified_order(labels, sizes=[len(labels) // 5] * 2)
        return {
            split: ArrayExamples(images[positions], labels[positions])
            for split, positions in zip(("val", "test", "train"), order, strict=True)
        }


def _photograph(name: str) -> np.ndarray:
    """uint8 [H, W, 3]"""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
        image = image[0] if isinstance(image, tuple) else image  # a stereo pair: the left one
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    height, width = image.shape[:2]
    if max(height, width) > 640:
        from PIL import Image

        scale = 512 / max(height, width)
        size = (round(width * scale), round(height * scale))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    return np.ascontiguousarray(image[..., :3])


def _cut(photograph: np.ndarray, seed: int, block: int = 64, patch: int = 32, stride: int = 16) -> dict:
    """Patches per split, uint8 [N, 3, patch, patch]."""
    rows, columns = photograph.shape[0] // block, photograph.shape[1] // block
    blocks = permutation(rows * columns, seed)
    held_out = round(0.15 * len(blocks))
    dealt = {"val": blocks[:held_out], "test": blocks[held_out : 2 * held_out], "train": blocks[2 * held_out :]}
    steps = range(0, block - patch + 1, stride)
    corners = {
        split: [(b // columns * block + y, b % columns * block + x) for b in chosen for y in steps for x in steps]
        for split, chosen in dealt.items()
    }
    return {
        split: np.stack([photograph[y : y + patch, x : x + patch].transpose(2, 0, 1) for y, x in places])
        for split, places in corners.items()
    }
