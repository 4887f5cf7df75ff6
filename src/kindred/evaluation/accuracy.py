"""Right or wrong: accuracies of class scores, and what is taken for what."""

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy


def top_k_accuracies(name: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
    """`<name>_top1`, and `<name>_top5` where there are more than five classes: micro accuracy over labelled images.

    Args:
        scores: [Q, C], the larger the more likely.
        labels: [Q] int64; images with label -1 are left out.
    """
    known = labels >= 0
    scores, labels = scores[known], labels[known]
    return {
        f"{name}_top{k}": float(multiclass_accuracy(scores, labels, scores.shape[1], top_k=k, average="micro"))
        for k in (1, 5)
        if k == 1 or scores.shape[1] > 5
    }


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [C, C]: how many images of the row's class were taken for the column's.

    Args:
        predicted, labels: [N] int64 in [0, C).
    """
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)
