"""InfoNCE over a choice of kin (the candidates that should land close to an anchor), in tiles: the default loss."""

import torch
from torch import Tensor

from kindred.losses.partition import LogPartition, check_temperature, default_chunk_size
from kindred.sphere import unit


def group_contrast(
    anchors: Tensor,
    candidates: Tensor,
    anchor_groups: Tensor,
    candidate_groups: Tensor,
    self_columns: Tensor | None,
    temperature: float | Tensor,
    chunk_size: int | None = None,
) -> Tensor:
    """The supervised contrastive loss L_out of Khosla et al. 2020 (arXiv:2004.11362), eq. 2, for any grouping.

    An anchor's kin are the candidates of its group, itself excluded; every candidate but itself is in the denominator.
    The mean is over the anchors that have kin; without any, as in an empty batch, the loss is 0.

    Args:
        anchors: [A, D], not necessarily normalised.
        candidates: [M, D].
        anchor_groups: [A] integers.
        candidate_groups: [M] integers.
        self_columns: [A], the position of each anchor among the candidates; None if the anchors are not among them.
        temperature: tau > 0.
        chunk_size: anchors per tile: memory grows with chunk_size x M. Neither value nor gradient depends on it. By
            default a tile fits the cache.

    Raises:
        ValueError: temperature <= 0 or chunk_size < 1.
    """
    check_temperature(temperature)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    with torch.autocast(anchors.device.type, enabled=False):
        if len(candidates) == 0:
            return 0 * unit(anchors).sum()
        among_themselves = anchors is candidates  # on one process: normalised once
        candidates = unit(candidates)
        anchors = (candidates if among_themselves else unit(anchors)) / temperature
        # Anchor . sum of kin = sum of anchor . kin: the positive term needs sums over groups but no [A, M] mask.
        # Groups are numbered by their first place in sorted order (`unique` would wait for the device).
        ordered = candidate_groups.sort().values
        first, kin = _count(ordered, anchor_groups, self_columns)
        group_sums = torch.zeros_like(candidates).index_add(
            0, torch.searchsorted(ordered, candidate_groups), candidates
        )
        kin_sum = group_sums.index_select(0, first.clamp(max=len(candidates) - 1))  # [] has a slow backward
        if self_columns is not None:
            kin_sum = kin_sum - candidates.index_select(0, self_columns)
        weights = (kin > 0).to(anchors.dtype)
        positives = (anchors * kin_sum).sum(dim=1) / kin.clamp(min=1)
        chunk_size = chunk_size or default_chunk_size(candidates)
        partition = LogPartition.apply(anchors, candidates, None, weights, self_columns, chunk_size)
        return (partition - torch.dot(weights, positives)) / weights.sum().clamp(min=1)


def kin_count(anchor_groups: Tensor, candidate_groups: Tensor, self_columns: Tensor | None) -> Tensor:
    """How many kin each anchor has [A] int64; the arguments are those of `group_contrast`."""
    return _count(candidate_groups.sort().values, anchor_groups, self_columns)[1]


def _count(ordered: Tensor, anchor_groups: Tensor, self_columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each anchor's group begins among the candidates' sorted groups [A], and how many kin the anchor has [A]."""
    first = torch.searchsorted(ordered, anchor_groups)
    same = torch.searchsorted(ordered, anchor_groups, right=True) - first
    return first, same if self_columns is None else same - 1


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float | Tensor, *, unit_negatives: bool = False
) -> Tensor:
    """InfoNCE with one positive each and shared negatives (van den Oord et al. 2018; MoCo, arXiv:1911.05722, eq. 1).

    Args:
        queries: [B, D].
        keys: [B, D], the positive of each query.
        negatives: [K, D], the same for every query; with K = 0 the loss is 0, as it is with B = 0.
        temperature: tau > 0.
        unit_negatives: the negatives are unit vectors already, as a queue's are: no second queue is made.

    Returns:
        The mean over the queries. Negatives that are the same on every rank (a queue) need no gather.
    """
    check_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        queries = unit(queries) / temperature
        keys, negatives = unit(keys), negatives if unit_negatives else unit(negatives)
        own = (queries * keys).sum(dim=1)
        if len(negatives) == 0:
            return 0 * own.sum()
        weights = torch.full_like(own, 1 / max(1, len(own)))
        # They come in parts, so that a tile of many queries fits the cache too.
        chunk_size = default_chunk_size(negatives, least=256)
        return LogPartition.apply(queries, negatives, own, weights, None, chunk_size) - torch.dot(weights, own)
