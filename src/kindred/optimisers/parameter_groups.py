"""Which parameters an optimiser decays."""

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float, apart: nn.Module | None = None) -> list[dict]:
    """Two parameter groups: weights with decay, and norms, biases and scalars (at most one dimension) without.

    Decay would pull the scale of a norm layer to zero and says nothing about capacity (Goyal et al. 2017, section 5.3;
    SimCLR and BYOL leave these out of LARS too).

    Args:
        module: frozen parameters are left out.
        weight_decay: for the first group.
        apart: a part of `module` that something else trains.

    Returns:
        Groups for an optimiser; one without parameters is left out.

    Raises:
        ValueError: nothing to train.
    """
    others = set() if apart is None else set(apart.parameters())
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad and parameter not in others]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if not trainable:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient")
    return [group for group in groups if group["params"]]
