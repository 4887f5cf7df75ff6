"""How a contrastive loss divides its push among the negatives, which is what the temperature sets."""

import torch
from torch import Tensor

from kindred.sphere import unit


def relative_penalties(similarities: Tensor, temperature: float | Tensor) -> Tensor:
    """The share of each negative in the gradient of InfoNCE (Wang & Liu 2021, arXiv:2012.09740, eq. 6).

    r_i(s_ij) = exp(s_ij / tau) / sum over the negatives k of exp(s_ik / tau): a Boltzmann distribution, which does not
    depend on the positive.

    Args:
        similarities: [..., K], cosines of an anchor with its negatives; -inf where a candidate is none.
        temperature: tau > 0.

    Returns:
        [..., K], rows that sum to 1; NaN for an anchor without negatives.
    """
    return (similarities / temperature).softmax(dim=-1)


@torch.no_grad()
def penalty_entropy(
    anchors: Tensor, candidates: Tensor, anchor_groups: Tensor, candidate_groups: Tensor, temperature: float | Tensor
) -> Tensor:
    """Entropy, in nats, of each anchor's relative penalties; its exponential is the number of negatives that matter.

    Between 0 (one negative takes the whole push) and log of the number of negatives (all share it alike).

    Args:
        anchors: [A, D], not necessarily normalised.
        candidates: [M, D]; those of another group than the anchor's are its negatives.
        anchor_groups: [A] integers.
        candidate_groups: [M] integers.
        temperature: tau > 0.

    Returns:
        [A]; NaN for an anchor without negatives.
    """
    anchors, candidates = unit(anchors), unit(candidates)
    entropies = []
    with torch.autocast(anchors.device.type, enabled=False):
        for rows, groups in zip(anchors.split(1024), anchor_groups.split(1024), strict=True):
            similarities = (rows @ candidates.T).masked_fill_(groups[:, None] == candidate_groups, -torch.inf)
            entropies.append(torch.special.entr(relative_penalties(similarities, temperature)).sum(dim=1))
    return torch.cat(entropies)
