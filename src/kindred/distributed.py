"""The few collectives that contrastive learning needs, the same with and without a process group.

On one process (no `torch.distributed`, or no process group) the world size is 1 and each function returns its argument.
Nothing here knows of Lightning: whoever starts the process group (Lightning, torchrun, a test) does not matter.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in [0, world_size)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds up what every rank's loss says about this rank's rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gathered = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        # `torch.distributed.all_gather` alone would drop these gradients, and only the rank's own anchors would learn.
        return _SumToOwner.apply(*grads)


class _SumToOwner(torch.autograd.Function):
    """Each rank's rows, summed over what all ranks have for them: the transpose of the gather, as that is of this."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        own = x.new_empty(x.shape[0] // world_size(), *x.shape[1:])
        dist.reduce_scatter_tensor(own, x.contiguous(), op=dist.ReduceOp.SUM)
        return own

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return _Gather.apply(*grads)


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the ranks.

    Gradients of all ranks are summed in backward. With each rank's loss the mean over its own anchors, DDP's average
    over the ranks then is the gradient of the mean over all anchors.

    Args:
        x: [B, ...], of the same shape on every rank; any dtype.

    Returns:
        [W*B, ...]; `x` itself on one process.
    """
    return x if world_size() == 1 else _Gather.apply(x)


@torch.no_grad()
def gather_uneven(x: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the ranks, where ranks may hold different numbers of rows (or none).

    For evaluation: no gradient, and the host waits for the sizes.

    Args:
        x: [n_r, ...], where only n_r may differ between ranks.

    Returns:
        [sum of n_r, ...]; `x` itself on one process.
    """
    if world_size() == 1:
        return x
    sizes = gather(torch.tensor([x.shape[0]], device=x.device)).tolist()
    padded = F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(sizes) - x.shape[0]))
    shards = gather(padded).split(max(sizes)) if max(sizes) else [x] * len(sizes)
    return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)])


@torch.no_grad()
def sum_over_ranks(x: Tensor) -> Tensor:
    """Elementwise sum of `x` (same shape on every rank) over the ranks, without gradient; `x` itself on one process."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total
