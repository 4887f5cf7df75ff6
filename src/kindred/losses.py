"""Contrastive losses: every one is InfoNCE over a choice of kin (the candidates that should land close to an anchor).

All of them take embeddings as they come and normalise them, compute in float32 at least (autocast is switched off
inside, half precision is raised, float64 stays), are finite for temperatures in [1e-3, 1e3], and never wait for the
device. The temperature is a number, or a 0-d tensor that may be learnt. Losses are differentiable once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kindred import distributed

# Logits held at a time. On a CPU they should stay in the cache between the matrix products; on a GPU a tile must only
# be large enough that launching kernels costs nothing.
_TILE_LOGITS = {"cpu": 2**21, "other": 2**24}


class _LogPartition(torch.autograd.Function):
    """sum_i w_i log(exp(own_i) + sum_j exp(<anchor_i, candidate_j>)), in tiles of anchors.

    Log-sum-exp and gradient are accumulated tile by tile in the forward pass: once a row's sum is known its softmax is
    in the cache, and two products turn it into gradients of size [A, D] and [M, D]. So no [A, M] matrix is ever stored
    and nothing is computed again; backward only scales. (Hence differentiable once.)
    """

    @staticmethod
    def forward(ctx, anchors, candidates, own, weights, self_columns, chunk_size):
        need_anchors, need_candidates, need_own = ctx.needs_input_grad[:3]
        grad_anchors = torch.empty_like(anchors) if need_anchors else None
        grad_candidates = torch.zeros_like(candidates) if need_candidates else None
        grad_own = torch.empty_like(own) if need_own else None
        limits = torch.finfo(anchors.dtype)
        buffer = anchors.new_empty(min(chunk_size, len(anchors)), len(candidates))
        total = anchors.new_zeros(())
        for start in range(0, len(anchors), chunk_size):
            rows = slice(start, min(start + chunk_size, len(anchors)))
            tile = torch.mm(anchors[rows], candidates.T, out=buffer[: rows.stop - start])
            if self_columns is not None:
                tile.scatter_(1, self_columns[rows, None], -torch.inf)
            # The maximum comes after the self-similarity is gone: at a small temperature that one (1/tau, the largest
            # possible) would push every other logit below the smallest exponential. Clamped for a row of -inf only.
            maximum = tile.amax(dim=1).clamp_(min=limits.min)
            if own is not None:
                maximum = torch.maximum(maximum, own[rows])
            sums = tile.sub_(maximum[:, None]).exp_().sum(dim=1)
            if own is not None:
                own_share = (own[rows] - maximum).exp_()
                sums += own_share
            sums.clamp_(min=limits.tiny)
            total += torch.dot(weights[rows], sums.log() + maximum)
            scale = weights[rows] / sums  # turns exponentials into weighted probabilities without touching the tile
            if need_own:
                torch.mul(own_share, scale, out=grad_own[rows])
            if need_anchors:
                torch.mm(tile, candidates, out=grad_anchors[rows]).mul_(scale[:, None])
            if need_candidates:
                grad_candidates.addmm_(tile.T, anchors[rows] * scale[:, None])
        ctx.save_for_backward(grad_anchors, grad_candidates, grad_own)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return *(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None, None


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
    The mean is over the anchors that have kin; without any the loss is 0.

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
    total, count = _group_contrast_sum(
        anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature, chunk_size
    )
    return total / count.clamp(min=1)


def nt_xent(embeddings: Tensor, temperature: float | Tensor, chunk_size: int | None = None) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, eq. 1), for any number of views, over all ranks.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        temperature: tau > 0.
        chunk_size: see `group_contrast`.

    Returns:
        The mean over this rank's V*B anchors, contrasted with the candidates of all ranks.
    """
    views, batch = embeddings.shape[:2]
    images = torch.arange(distributed.world_size() * batch, device=embeddings.device).view(-1, 1, batch)
    groups = images.expand(-1, views, -1).reshape(-1)  # in the order of the gathered rows: rank, view, image
    return _contrast_over_ranks(embeddings, groups, temperature, chunk_size)


def sup_con(embeddings: Tensor, labels: Tensor, temperature: float | Tensor, chunk_size: int | None = None) -> Tensor:
    """Supervised contrastive loss L_out (Khosla et al. 2020, arXiv:2004.11362, eq. 2) over all ranks.

    There is no factor tau / base_temperature as in the authors' code: it would scale the gradient when tau is swept.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        labels: [B] classes; the kin of an unlabelled image (-1) are its own other views only.
        temperature: tau > 0.
        chunk_size: see `group_contrast`.

    Returns:
        The sum over this rank's anchors that have kin, divided by the ranks' mean number of such anchors: the average
        over the ranks, which DDP takes of the gradients, is then the mean over all anchors wherever they are.
    """
    views, batch = embeddings.shape[:2]
    labels = distributed.gather(labels)
    unlabelled = -1 - torch.arange(len(labels), device=labels.device)  # a group of its own for each
    groups = torch.where(labels < 0, unlabelled, labels).view(-1, 1, batch)
    return _contrast_over_ranks(embeddings, groups.expand(-1, views, -1).reshape(-1), temperature, chunk_size)


def image_contrast(anchors: Tensor, candidates: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross-entropy of each anchor against the candidates of all ranks, of which its own image's is the right one.

    With neighbours as anchors and predictions as candidates this is NNCLR's loss (Dwibedi et al. 2021, eq. 4).

    Args:
        anchors: [B, D], one for each of the rank's images.
        candidates: [B, D], likewise; gathered over the ranks here.
        temperature: tau > 0.

    Returns:
        The mean over this rank's anchors.
    """
    candidates = distributed.gather(_raise_precision(candidates))
    images = torch.arange(len(candidates), device=candidates.device)
    own = images[: len(anchors)] + distributed.rank() * len(anchors)
    return group_contrast(anchors, candidates, own, images, None, temperature)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float | Tensor) -> Tensor:
    """InfoNCE with one positive each and shared negatives (van den Oord et al. 2018; MoCo, arXiv:1911.05722, eq. 1).

    Args:
        queries: [B, D].
        keys: [B, D], the positive of each query.
        negatives: [K, D], the same for every query; with K = 0 the loss is 0.
        temperature: tau > 0.

    Returns:
        The mean over the queries. Negatives that are the same on every rank (a queue) need no gather.
    """
    _check_temperature(temperature)
    with torch.autocast(queries.device.type, enabled=False):
        queries = _unit(queries) / temperature
        keys, negatives = _unit(keys), _unit(negatives)
        own = (queries * keys).sum(dim=1)
        if len(negatives) == 0:
            return 0 * own.sum()
        weights = torch.full_like(own, 1 / len(own))
        chunk_size = _default_chunk_size(negatives)
        return _LogPartition.apply(queries, negatives, own, weights, None, chunk_size) - torch.dot(weights, own)


def _contrast_over_ranks(embeddings, groups, temperature, chunk_size):
    """This rank's embeddings [V, B, D] against those of all ranks, whose groups are [W*V*B]."""
    # Raised before the gather, so that the gradients of the ranks are not added up in half precision.
    anchors = _raise_precision(embeddings.flatten(0, 1))
    candidates = distributed.gather(anchors)
    own = torch.arange(len(anchors), device=anchors.device) + distributed.rank() * len(anchors)
    total, count = _group_contrast_sum(anchors, candidates, groups[own], groups, own, temperature, chunk_size)
    count = distributed.sum_over_ranks(count).clamp(min=1) / distributed.world_size()
    return total / count


def _group_contrast_sum(anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature, chunk_size):
    """The sum of the anchors' losses, and the number of anchors with kin."""
    _check_temperature(temperature)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, candidates = _unit(anchors) / temperature, _unit(candidates)
        # Anchor . sum of kin = sum of anchor . kin: the positive term needs sums over groups but no [A, M] mask.
        # Groups are numbered by their first place in sorted order (`unique` would wait for the device).
        ordered = candidate_groups.sort().values
        first = torch.searchsorted(ordered, anchor_groups)
        kin_count = torch.searchsorted(ordered, anchor_groups, right=True) - first
        group_sums = torch.zeros_like(candidates).index_add(
            0, torch.searchsorted(ordered, candidate_groups), candidates
        )
        kin_sum = group_sums.index_select(0, first.clamp(max=len(candidates) - 1))  # [] has a slow backward
        if self_columns is not None:
            kin_count, kin_sum = kin_count - 1, kin_sum - candidates.index_select(0, self_columns)
        weights = (kin_count > 0).to(anchors.dtype)
        positives = (anchors * kin_sum).sum(dim=1) / kin_count.clamp(min=1)
        chunk_size = chunk_size or _default_chunk_size(candidates)
        partition = _LogPartition.apply(anchors, candidates, None, weights, self_columns, chunk_size)
        return partition - torch.dot(weights, positives), weights.sum()


def _raise_precision(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(x):
    return F.normalize(_raise_precision(x), dim=-1)


def _default_chunk_size(candidates):
    tile = _TILE_LOGITS.get(candidates.device.type, _TILE_LOGITS["other"])
    return max(32, tile // max(len(candidates), 1))


def _check_temperature(temperature):
    # A tensor is not looked at: reading its value would wait for the device.
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
