"""The denominator of InfoNCE, over all anchors and candidates, without a matrix of all pairs."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at a time. On a CPU they should stay in the cache between the matrix products; on a GPU a tile must only
# be large enough that launching kernels costs nothing.
_TILE_LOGITS = {"cpu": 2**21, "other": 2**24}


class LogPartition(torch.autograd.Function):
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


def default_chunk_size(candidates: Tensor) -> int:
    """Anchors per tile, so that a tile of [anchors, len(candidates)] fits the cache."""
    tile = _TILE_LOGITS.get(candidates.device.type, _TILE_LOGITS["other"])
    return max(32, tile // max(len(candidates), 1))
