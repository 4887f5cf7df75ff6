"""The denominator of InfoNCE, over all anchors and candidates, without a matrix of all pairs; and its temperature."""

import torch
from torch import Tensor

# Logits held at a time. On a CPU they should stay in the cache between the matrix products; on a GPU a tile must only
# be large enough that launching kernels costs nothing.
_TILE_LOGITS = {"cpu": 2**21, "other": 2**24}


class LogPartition(torch.autograd.Function):
    """sum_i w_i log(exp(own_i) + sum_j exp(<anchor_i, candidate_j>)), in tiles.

    Log-sum-exp and gradient are accumulated tile by tile in the forward pass: while a tile is in the cache, products with
    it become gradients of size [A, D] and [M, D]. So no [A, M] matrix is ever stored and nothing is computed again;
    backward only scales. (Hence differentiable once: twice is an error.)

    The gradient of the candidates needs the anchors' finished sums: then a tile is `chunk_size` anchors and all candidates.
    Candidates that are not differentiated, as a queue's rows, come in parts that fit the cache: sums and gradient are
    relative to the largest logit so far, and shrink when a larger one comes (Milakov & Gimelshein 2018, arXiv:1805.02867).
    """

    @staticmethod
    def forward(ctx, anchors, candidates, own, weights, self_columns, chunk_size):
        need_anchors, need_candidates, need_own = ctx.needs_input_grad[:3]
        grad_anchors = torch.zeros_like(anchors) if need_anchors else None
        grad_candidates = torch.zeros_like(candidates) if need_candidates else None
        grad_own = torch.empty_like(own) if need_own else None
        limits = torch.finfo(anchors.dtype)
        chunk_size = min(chunk_size, max(1, len(anchors)))
        width = len(candidates)
        if not need_candidates and self_columns is None:
            width = min(width, max(1, _tile_logits(anchors) // chunk_size))
        buffer = anchors.new_empty(chunk_size * width)
        total = anchors.new_zeros(())
        for start in range(0, len(anchors), chunk_size):
            rows = slice(start, min(start + chunk_size, len(anchors)))
            # Not -inf, from which a row of -inf only (an anchor alone in the batch) could not be subtracted.
            maximum = torch.full_like(weights[rows], limits.min) if own is None else own[rows]
            sums = torch.zeros_like(maximum) if own is None else torch.ones_like(maximum)
            for part in candidates.split(width):
                shape = len(maximum), len(part)
                tile = torch.mm(anchors[rows], part.T, out=buffer[: shape[0] * shape[1]].view(shape))
                if self_columns is not None:
                    tile.scatter_(1, self_columns[rows, None], -torch.inf)
                # The maximum comes after the self-similarity is gone: at a small temperature that one (1/tau, the largest
                # possible) would push every other logit below the smallest exponential.
                before, maximum = maximum, torch.maximum(maximum, tile.amax(dim=1))
                shrink = (before - maximum).exp_()
                sums = torch.addcmul(tile.sub_(maximum[:, None]).exp_().sum(dim=1), sums, shrink)
                if grad_anchors is not None:
                    grad_anchors[rows].mul_(shrink[:, None]).addmm_(tile, part)
            sums.clamp_(min=limits.tiny)
            total += torch.dot(weights[rows], sums.log() + maximum)
            scale = weights[rows] / sums  # turns exponentials into weighted probabilities without touching the tile
            if grad_own is not None:
                torch.mul((own[rows] - maximum).exp_(), scale, out=grad_own[rows])
            if grad_anchors is not None:
                grad_anchors[rows].mul_(scale[:, None])
            if grad_candidates is not None:
                grad_candidates.addmm_(tile.T, anchors[rows] * scale[:, None])
        ctx.save_for_backward(grad_anchors, grad_candidates, grad_own)
        return total

    @staticmethod
    def backward(ctx, *grads):
        # Nor would `once_differentiable` do: of a scalar's gradient it takes what was saved for constants, without a word.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "group_contrast and info_nce are differentiable once: no create_graph, or another loss of kindred.losses"
            )
        (grad,) = grads
        return *(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None, None


def default_chunk_size(candidates: Tensor, least: int = 32) -> int:
    """Anchors per tile, `least` or more, so that a tile of [anchors, len(candidates)] fits the cache."""
    return max(least, _tile_logits(candidates) // max(len(candidates), 1))


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse a temperature that is not positive. A tensor is not looked at: reading its value would wait for the device."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")


def _tile_logits(x: Tensor) -> int:
    return _TILE_LOGITS.get(x.device.type, _TILE_LOGITS["other"])
