"""kNN and linear classification of one frozen representation, their settings chosen on val before test is looked at."""

from typing import NamedTuple

from torch import Tensor

from kindred.evaluation.knn import knn_classify, knn_search, knn_vote
from kindred.evaluation.linear import linear_probe

KNN_K = (5, 20, 100, 200)
KNN_TEMPERATURES = (0.03, 0.07, 0.1, 0.2)


class Encoded(NamedTuple):
    """One representation of a data set, in its order."""

    features: Tensor  # [N, F] float32
    labels: Tensor  # [N] int64


def judge(
    train: Encoded, val: Encoded, test: Tensor, num_classes: int, refit: bool = True
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Scores [N, C] of the test images by "knn" and "linear", and what was chosen.

    Args:
        train: what votes, and what the linear classifier is fitted to.
        val: what k, temperature and penalty are chosen on.
        test: features [N, F]; labels have no part in this.
        num_classes: C.
        refit: fit the linear classifier to train and val once its penalty is chosen.

    Returns:
        The scores, and `knn_k`, `knn_temperature`, `linear_penalty` with their accuracies on val. That of kNN made it win;
        the penalty won by its cross-entropy there.
    """
    k, temperature, knn_top1 = choose_knn(train, val, num_classes)
    linear = linear_probe(*train, *val, num_classes, refit=refit)
    scores = {
        "knn": knn_classify(*train, test, k, temperature, num_classes),
        "linear": linear(test),
    }
    chosen = {
        "knn_k": k,
        "knn_temperature": temperature,
        "knn_val_top1": knn_top1,
        "linear_penalty": linear.penalty,
        "linear_val_top1": linear.val_top1,
    }
    return scores, chosen


def choose_knn(train: Encoded, val: Encoded, num_classes: int) -> tuple[int, float, float]:
    """The k and temperature of KNN_K and KNN_TEMPERATURES that are best on val, the first of equals; their accuracy."""
    ks = sorted({min(k, len(train.labels)) for k in KNN_K})
    similarities, positions = knn_search(
        train.features, val.features, ks[-1]
    )  # fewer neighbours are the first of these
    voters = train.labels[positions]
    accuracies = {}
    for k in ks:
        for temperature in KNN_TEMPERATURES:
            scores = knn_vote(similarities[:, :k], voters[:, :k], temperature, num_classes)
            accuracies[k, temperature] = float((scores.argmax(dim=1) == val.labels).double().mean())
    best = max(accuracies, key=accuracies.__getitem__)
    return *best, accuracies[best]
