"""What time_to_accuracy.py judges encoders on and with: image files read by PIL, and scikit-learn's classifiers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rivals import MEAN, STD
from torch import Tensor


def pictures(folder: Path, size: int = 32) -> tuple[Tensor, np.ndarray]:
    """The images of a folder, normalised, [N, 3, size, size], and their classes [N]."""
    images, labels = [], []
    for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for path in sorted((folder / name).iterdir()):
            images.append(np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1))
            labels.append(label)
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), np.array(labels)


def judge(
    encoder: torch.nn.Module, bank: tuple[Tensor, np.ndarray], query: tuple[Tensor, np.ndarray]
) -> dict[str, float]:
    """Accuracies on `query` of scikit-learn's classifiers that are fitted to `bank`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with torch.inference_mode():
        features = [torch.cat([encoder(part) for part in images.split(512)]).numpy() for images, _ in (bank, query)]
    nearest = KNeighborsClassifier(min(20, len(bank[1])), metric="cosine")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    return {
        name: float(classifier.fit(features[0], bank[1]).score(features[1], query[1]))
        for name, classifier in (("knn", nearest), ("linear", linear))
    }


def tiny_images(folder: Path) -> Path:
    """A folder of a few random JPEG files."""
    draw = np.random.default_rng(0)
    for split, each in (("train", 16), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(
                    folder / split / name / f"{number}.jpg"
                )
    return folder
