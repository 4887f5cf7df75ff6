"""Batch norm of MoCo's keys in groups that mix the images of the whole batch, the same whatever the number of ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kindred.data.order import permutation
from kindred.distributed import gather, rank, world_size
from kindred.training.batch_norm import SyncBatchNorm


@torch.no_grad()
def encode_in_splits(encoder: nn.Module, view: Tensor, splits: int, *key: int) -> Tensor:
    """Encode the global batch in `splits` groups, each normalised by itself (shuffling BN; MoCo, arXiv:1911.05722, 3.3).

    A query and its key in one group of batch norm share its statistics, and the network can cheat with them. Examples are
    permuted over the global batch as a function of `key`, cut into groups, and each rank encodes its share of the groups.

    Args:
        encoder: its SyncBatchNorm layers, if any, must be local (`make_local`).
        view: [B, ...], this rank's share.
        splits: groups, a multiple of the number of ranks and a divisor of the global batch.
        key: integers that say which permutation; the same on every rank.

    Returns:
        [B, D], in the order of `view`.
    """
    ranks, batch = world_size(), len(view)
    order = torch.from_numpy(permutation(ranks * batch, *key)).to(view.device, non_blocking=True)
    own = order.chunk(ranks)[rank()]
    everything = gather(view)
    keys = gather(torch.cat([encoder(everything[group]) for group in own.chunk(splits // ranks)]))
    return torch.empty_like(keys).index_copy_(0, order, keys)[rank() * batch : (rank() + 1) * batch]


def make_local(encoder: nn.Module) -> None:
    """Let every SyncBatchNorm of `encoder` see this rank's images alone; all ranks must call it."""
    layers = [module for module in encoder.modules() if isinstance(module, nn.SyncBatchNorm | SyncBatchNorm)]
    if layers and world_size() > 1:
        alone = [dist.new_group([other]) for other in range(world_size())][rank()]
        for layer in layers:
            layer.process_group = alone
