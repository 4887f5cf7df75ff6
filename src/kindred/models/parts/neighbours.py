"""Whom NNCLR takes for an image's neighbours in the support set: the nearest, several, their mean, or one of its class.

Each is called with the support set, embeddings [B, D] and their labels [B], and gives K neighbours of each as vectors
[K, B, D] and their labels [K, B]; the support set must not be empty.
"""

import torch
from torch import Tensor

from kindred.memory import FeatureQueue
from kindred.values import Count, Positive


class Nearest:
    """The nearest one (Dwibedi et al. 2021, eq. 3)."""

    uses_labels = False

    def __call__(self, support: FeatureQueue, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        nearest = support.nearest(embeddings)[None]
        return support.features[nearest], support.labels[nearest]


class TopK:
    """The k nearest, each a positive by itself.

    Args:
        k: neighbours, as far as the support set has them.
    """

    uses_labels = False

    def __init__(self, k: Count = 5) -> None:
        self.k = k

    def __call__(self, support: FeatureQueue, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        places = _nearest(support, embeddings, self.k)[1].T
        return support.features[places], support.labels[places]


class Soft:
    """The mean of the k nearest, weighted by a softmax of their similarities (Dwibedi et al. 2019, arXiv:1904.07846, 3.2).

    Args:
        k: neighbours, as far as the support set has them.
        temperature: of the softmax; towards 0 only the nearest counts.
    """

    uses_labels = False

    def __init__(self, k: Count = 5, temperature: Positive = 0.1) -> None:
        self.k = k
        self.temperature = temperature

    def __call__(self, support: FeatureQueue, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        similarities, places = _nearest(support, embeddings, self.k)
        weights = (similarities / self.temperature).softmax(dim=1)
        mean = (weights[:, None] @ support.features[places]).transpose(0, 1)
        return mean, support.labels[places[:, :1]].T  # it is said to be of the nearest one's class


class Oracle:
    """The nearest one of the image's own class, as an upper bound; the image itself where the support set has none.

    An unlabelled image has the nearest one.
    """

    uses_labels = True

    def __call__(self, support: FeatureQueue, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        best = embeddings.new_full((len(embeddings),), -torch.inf, dtype=support.features.dtype)
        place = torch.zeros_like(labels)
        for start, tile in support.similarities(embeddings):
            other = (labels[:, None] >= 0) & (labels[:, None] != support.labels[start : start + tile.shape[1]])
            value, found = tile.masked_fill(other, -torch.inf).max(dim=1)
            place = torch.where(value > best, found + start, place)
            best = torch.maximum(best, value)
        none = best == -torch.inf
        vectors = torch.where(none[:, None], embeddings.to(support.features.dtype), support.features[place])
        return vectors[None], torch.where(none, labels, support.labels[place])[None]


def _nearest(support: FeatureQueue, embeddings: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and places [B, k] of the nearest rows, the nearest first."""
    parts = [
        (values, places + start)
        for start, tile in support.similarities(embeddings)
        for values, places in [tile.topk(min(k, tile.shape[1]))]
    ]
    values, places = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    values, order = values.topk(min(k, len(support)))
    return values, places.gather(1, order)
