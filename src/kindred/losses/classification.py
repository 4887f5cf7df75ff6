"""Cross-entropies of a classifier over all ranks: with labels where there are some, and with a teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kindred.distributed import sum_over_ranks, world_size
from kindred.sphere import raise_precision


def classify(logits: Tensor, labels: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Cross-entropy of softmax(logits / tau) with the labels, of labelled examples.

    Args:
        logits: [V, B, C], of V views of this rank's B examples.
        labels: [B] classes; an unlabelled example (-1) is left out.
        temperature: tau > 0.

    Returns:
        The sum over the views of this rank's labelled examples, divided by the ranks' mean number of such views: the average
        over the ranks, which DDP takes of the gradients, is then the mean over all of them wherever they are. Zero without.
    """
    with torch.autocast(logits.device.type, enabled=False):
        targets = labels.expand(logits.shape[:2]).flatten()
        logits = raise_precision(logits).flatten(0, 1) / temperature
        total = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
        count = sum_over_ranks((targets >= 0).sum())
        return total * world_size() / count.clamp(min=1)


def distill(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross-entropy of the student with the teacher's labels, both at tau (Chen et al. 2020, arXiv:2006.10029, eq. 2).

    Args:
        student: logits [V, B, C].
        teacher: logits [V, B, C] of the same views; no gradient flows into them.
        temperature: tau > 0.

    Returns:
        The mean over this rank's V*B views.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = (raise_precision(logits) / temperature for logits in (student, teacher.detach()))
        return -(teacher.softmax(dim=-1) * student.log_softmax(dim=-1)).sum(dim=-1).mean()


@torch.no_grad()
def right_share(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of labelled examples' views that the largest logit is right about, on all ranks; NaN without any.

    Args:
        logits: [V, B, C].
        labels: [B]; -1: unlabelled.
    """
    labelled = (labels >= 0).expand(logits.shape[:2])
    right, examples = sum_over_ranks(
        torch.stack([((logits.argmax(dim=-1) == labels) & labelled).sum(), labelled.sum()])
    )
    return right / examples
