"""A second network that follows the trained one slowly (MoCo, He et al. 2020, arXiv:1911.05722, eq. 2)."""

from copy import deepcopy

import torch
from lightly.models.utils import deactivate_requires_grad
from torch import Tensor, nn


def momentum_copy(*parts: nn.Module) -> nn.Sequential:
    """The parts one after the other, copied, and without gradients."""
    copied = deepcopy(nn.Sequential(*parts))
    deactivate_requires_grad(copied)
    return copied


@torch.no_grad()
def follow(slow: nn.Module, momentum: float, *parts: nn.Module) -> None:
    """slow <- m slow + (1 - m) parts, of all parameters in a few kernels."""
    followed: list[Tensor] = [parameter for part in parts for parameter in part.parameters()]
    own: list[Tensor] = [*slow.parameters()]
    torch._foreach_lerp_(own, followed, 1 - momentum)
