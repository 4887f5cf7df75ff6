"""Contrastive losses: the default is InfoNCE over a choice of kin (the candidates that should land close to an anchor).

All of them take embeddings as they come and normalise them, compute in float32 at least (autocast is switched off
inside, half precision is raised, float64 stays), are finite for temperatures in [1e-3, 1e3], and never wait for the
device. The temperature is a number, or a 0-d tensor that may be learnt. `group_contrast` and `info_nce`, in tiles, are
differentiable once, and say so where they are to be twice; the others are.
"""

from kindred.losses.choice import BY_BANK, BY_GROUP, BY_NEIGHBOUR, BY_QUEUE, choose
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
from kindred.losses.over_ranks import (
    class_groups,
    contrast_classes,
    contrast_images,
    image_contrast,
    image_groups,
    nt_xent,
    sup_con,
)
from kindred.losses.queued import decoupled_info_nce, hard_info_nce

__all__ = [
    "BY_BANK",
    "BY_GROUP",
    "BY_NEIGHBOUR",
    "BY_QUEUE",
    "choose",
    "class_groups",
    "contrast_classes",
    "contrast_images",
    "decoupled",
    "decoupled_info_nce",
    "group_contrast",
    "hard_contrastive",
    "hard_info_nce",
    "hard_simple",
    "image_contrast",
    "image_groups",
    "info_nce",
    "margin",
    "nce",
    "noise_contrast",
    "nt_xent",
    "simple",
    "sup_con",
    "supcon_in",
    "triplet",
]
