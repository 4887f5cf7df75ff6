"""The losses by the names that `model.loss` takes."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kindred.errors import ConfigError
from kindred.losses.contrastive import group_contrast, info_nce
from kindred.losses.family import (
    decoupled,
    hard_contrastive,
    hard_simple,
    margin,
    nce,
    simple,
    supcon_in,
    triplet,
)
from kindred.losses.noise import noise_contrast
from kindred.losses.queued import decoupled_info_nce, hard_info_nce
from kindred.losses.windows import first_of

# Of anchors and candidates by group.
BY_GROUP = {
    "contrastive": group_contrast,
    "supcon_in": supcon_in,
    "simple": simple,
    "hard_contrastive": hard_contrastive,
    "hard_simple": hard_simple,
    "decoupled": decoupled,
    "margin": margin,
    "triplet": triplet,
    "nce": nce,
}
# Of queries, keys and the negatives in a queue.
BY_QUEUE = {"contrastive": info_nce, "hard_contrastive": hard_info_nce, "decoupled": decoupled_info_nce}
# Of anchors against the batch's predictions, by group, where kin is an image's neighbour.
BY_NEIGHBOUR = {name: BY_GROUP[name] for name in BY_QUEUE}
# Of anchors against the train images' rows in a bank, by image: a sample of them, or all.
BY_BANK = {"nce": noise_contrast, "contrastive": group_contrast}
WITHOUT_TEMPERATURE = (simple, hard_simple, margin, triplet)
INFO_NCE = (group_contrast, info_nce, first_of)  # log N - L bounds a mutual information


def choose(
    losses: Mapping[str, Callable[..., Tensor]], name: str, options: Mapping[str, Any] | None = None
) -> partial[Tensor]:
    """The loss of that name with its own arguments bound.

    Args:
        losses: those that a method can use.
        name: one of them.
        options: arguments that come after the temperature, such as `{"alpha": 0.1}`.

    Raises:
        ValueError: another name, an argument that the loss does not take, or a value that it refuses; with what is right.
    """
    if name not in losses:
        raise ConfigError(f"model.loss must be one of {', '.join(losses)} for this method, got {name!r}")
    options = options or {}
    signature = inspect.signature(losses[name]).parameters.values()
    parameters = [p.name for p in signature if p.kind is not p.KEYWORD_ONLY]  # those are between loss and method
    own = parameters[parameters.index("temperature") + 1 :]
    for key in options:
        if key not in own:
            right = f"it takes {', '.join(own)}" if own else "it takes none"
            raise ConfigError(f"model.loss_options.{key}: {name} has no such option, {right}")
    loss = partial(losses[name], **options)
    rows, groups = torch.eye(2), torch.arange(2)
    example = (rows, rows, groups, groups, None) if "anchor_groups" in parameters else (rows, rows, rows)
    try:  # a value that the loss refuses is an error now and not at the first step
        loss(*example, 1.0)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.loss_options={dict(options)}: {error}") from error
    return loss
