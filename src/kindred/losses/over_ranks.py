"""The losses over all ranks: who is kin, which candidates other ranks hold, and the mean over all anchors.

Any loss of anchors and candidates by group will do (`group_contrast`, or one of `kindred.losses.family`).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kindred import distributed
from kindred.losses.contrastive import group_contrast, kin_count
from kindred.sphere import raise_precision

GroupLoss = Callable[..., Tensor]  # (anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature)


def contrast_images(embeddings: Tensor, temperature: float | Tensor, loss: GroupLoss = group_contrast) -> Tensor:
    """`loss` where the views of one image are kin, over all ranks.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        temperature: tau > 0.
        loss: what contrasts anchors with candidates, by group.

    Returns:
        The mean over this rank's V*B anchors, contrasted with the candidates of all ranks.
    """
    return _contrast_over_ranks(embeddings, image_groups(embeddings), temperature, loss)


def contrast_classes(
    embeddings: Tensor, labels: Tensor, temperature: float | Tensor, loss: GroupLoss = group_contrast
) -> Tensor:
    """`loss` where all views of all images of one class are kin, over all ranks.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        labels: [B] classes; the kin of an unlabelled image (-1) are its own other views only.
        temperature: tau > 0.
        loss: what contrasts anchors with candidates, by group.

    Returns:
        The sum over this rank's anchors that have kin, divided by the ranks' mean number of such anchors: the average
        over the ranks, which DDP takes of the gradients, is then the mean over all anchors wherever they are.
    """
    return _contrast_over_ranks(embeddings, class_groups(embeddings, labels), temperature, loss)


def nt_xent(embeddings: Tensor, temperature: float | Tensor, chunk_size: int | None = None) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv:2002.05709, eq. 1), for any number of views, over all ranks.

    It is `contrast_images` with `group_contrast`, in tiles of `chunk_size` anchors.
    """
    return contrast_images(embeddings, temperature, partial(group_contrast, chunk_size=chunk_size))


def sup_con(embeddings: Tensor, labels: Tensor, temperature: float | Tensor, chunk_size: int | None = None) -> Tensor:
    """Supervised contrastive loss L_out (Khosla et al. 2020, arXiv:2004.11362, eq. 2) over all ranks.

    It is `contrast_classes` with `group_contrast`, in tiles of `chunk_size` anchors. There is no factor
    tau / base_temperature as in the authors' code: it would scale the gradient when tau is swept.
    """
    return contrast_classes(embeddings, labels, temperature, partial(group_contrast, chunk_size=chunk_size))


def image_contrast(
    anchors: Tensor, candidates: Tensor, temperature: float | Tensor, loss: GroupLoss = group_contrast
) -> Tensor:
    """`loss` of each anchor against the candidates of all ranks, of which its own image's is the right one.

    With neighbours as anchors, predictions as candidates and `group_contrast`, a cross-entropy then, this is NNCLR's loss
    (Dwibedi et al. 2021, eq. 4).

    Args:
        anchors: [B, D], one for each of the rank's images.
        candidates: [B, D], likewise; gathered over the ranks here.
        temperature: tau > 0.
        loss: what contrasts anchors with candidates, by group.

    Returns:
        The mean over this rank's anchors.
    """
    candidates = distributed.gather(raise_precision(candidates))
    images = torch.arange(len(candidates), device=candidates.device)
    own = images[: len(anchors)] + distributed.rank() * len(anchors)
    return loss(anchors, candidates, own, images, None, temperature)


def image_groups(embeddings: Tensor) -> Tensor:
    """The image of each of the gathered embeddings [W*V*B], in their order: rank, view, image."""
    views, batch = embeddings.shape[:2]
    images = torch.arange(distributed.world_size() * batch, device=embeddings.device)
    return images.view(distributed.world_size(), 1, batch).expand(-1, views, -1).reshape(-1)


def class_groups(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The class of each of the gathered embeddings [W*V*B], a group of its own for each unlabelled image."""
    views, batch = embeddings.shape[:2]
    labels = distributed.gather(labels)
    unlabelled = -1 - torch.arange(len(labels), device=labels.device)
    groups = torch.where(labels < 0, unlabelled, labels).view(distributed.world_size(), 1, batch)
    return groups.expand(-1, views, -1).reshape(-1)


def _contrast_over_ranks(embeddings, groups, temperature, loss):
    """This rank's embeddings [V, B, D] against those of all ranks, whose groups are [W*V*B]."""
    # Raised before the gather, so that the gradients of the ranks are not added up in half precision.
    anchors = raise_precision(embeddings.flatten(0, 1))
    candidates = distributed.gather(anchors)
    own = torch.arange(len(anchors), device=anchors.device) + distributed.rank() * len(anchors)
    mean = loss(anchors, candidates, groups[own], groups, own, temperature)
    if distributed.world_size() == 1:
        return mean
    with_kin = (kin_count(groups[own], groups, own) > 0).sum()
    return mean * (distributed.world_size() * with_kin) / distributed.sum_over_ranks(with_kin).clamp(min=1)
