"""Losses of a query, its key and a queue of negatives, to be put in the place of `info_nce`."""

import torch
from torch import Tensor

from kindred.losses.family import hardest, over
from kindred.sphere import unit


def hard_info_nce(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float | Tensor,
    alpha: float = 0.0819,
    *,
    unit_negatives: bool = False,
) -> Tensor:
    """`info_nce` with each query's hard negatives only (Wang & Liu 2021, arXiv:2012.09740).

    Args:
        queries, keys, negatives, temperature, unit_negatives: see `info_nce`.
        alpha: which share of the negatives is hard; the paper's 4,095 of 50,000.
    """
    own, others = compare_with_queue(queries, keys, negatives, unit_negatives)
    hard = hardest(others, torch.ones_like(others, dtype=torch.bool), alpha)
    others = over(others, temperature).masked_fill(~hard, -torch.inf)
    own = over(own, temperature)
    return over_queries(torch.cat([own[:, None], others], dim=1).logsumexp(dim=1) - own)


def decoupled_info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float | Tensor, *, unit_negatives: bool = False
) -> Tensor:
    """`info_nce` with the positive left out of the denominator: DCL (Yeh et al. 2022, arXiv:2110.06848, eq. 6).

    Args:
        queries, keys, negatives, temperature, unit_negatives: see `info_nce`; with K = 0 the loss is 0 here too.
    """
    own, others = compare_with_queue(queries, keys, negatives, unit_negatives)
    own, others = over(own, temperature), over(others, temperature)
    return over_queries(others.logsumexp(dim=1) - own if len(negatives) else 0 * own)


def compare_with_queue(queries, keys, negatives, unit_negatives):
    """Similarities of queries and keys [B], and of queries and negatives [B, K]."""
    with torch.autocast(queries.device.type, enabled=False):
        queries = unit(queries)
        return (queries * unit(keys)).sum(dim=1), queries @ (negatives if unit_negatives else unit(negatives)).T


def over_queries(losses):
    """The mean, 0 of none."""
    return losses.sum() / max(1, len(losses))
