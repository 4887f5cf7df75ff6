"""Folders of images that a test makes."""

import numpy as np
from PIL import Image

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def noisy_classes(root, per_class, splits=None, size=(14, 18)):
    """<root>/train/class{0,1,2}/<n>.png of noise about a colour, `per_class` of each, and as many as other `splits` say."""
    generator = np.random.default_rng(0)
    for split, count in ({"train": per_class} | (splits or {})).items():
        for label, colour in enumerate(COLOURS):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.clip(colour + generator.normal(0, 25, (*size, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root
