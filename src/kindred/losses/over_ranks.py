"""The losses over all ranks: who is kin, which candidates other ranks hold, and the mean over all anchors.

Any loss of anchors and candidates by group will do (`group_contrast`, or one of `kindred.losses.family`).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from kindred import distributed
from kindred.losses.contrastive import group_contrast, kin_count
from kindred.sphere import raise_precision

GroupLoss = Callable[..., Tensor]  # (anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature)


def contrast_images(
    embeddings: Tensor,
    temperature: float | Tensor,
    loss: GroupLoss = group_contrast,
    large: Sequence[int] | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """`loss` where the views of one image are kin, over all ranks.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        temperature: tau > 0.
        loss: what contrasts anchors with candidates, by group.
        large: the views that are candidates; the others, as small crops, are anchors only. None: all.
        negatives: [K, D], candidates that are nobody's kin, the same on every rank (a queue).

    Returns:
        The mean over this rank's V*B anchors, contrasted with the candidates of all ranks.
    """
    return _contrast_over_ranks(embeddings, image_groups, temperature, loss, large, negatives)


def contrast_classes(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    loss: GroupLoss = group_contrast,
    large: Sequence[int] | None = None,
) -> Tensor:
    """`loss` where all views of all images of one class are kin, over all ranks.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images.
        labels: [B] classes; the kin of an unlabelled image (-1) are its own other views only.
        temperature: tau > 0.
        loss: what contrasts anchors with candidates, by group.
        large: the views that are candidates; see `contrast_images`.

    Returns:
        The sum over this rank's anchors that have kin, divided by the ranks' mean number of such anchors: the average
        over the ranks, which DDP takes of the gradients, is then the mean over all anchors wherever they are.
    """
    return _contrast_over_ranks(embeddings, partial(class_groups, labels=labels), temperature, loss, large)


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


def _contrast_over_ranks(embeddings, groups_of, temperature, loss, large, negatives=None):
    """This rank's embeddings [V, B, D] against all ranks' large views, of groups `groups_of` them, and against negatives."""
    # Raised before the gather, so that the gradients of the ranks are not added up in half precision.
    embeddings, small = raise_precision(embeddings), embeddings[:0]
    if large is not None and len(large) < len(embeddings):
        small = torch.stack([view for number, view in enumerate(embeddings) if number not in large])
        embeddings = torch.stack([embeddings[number] for number in large])
    anchors = embeddings.flatten(0, 1)
    candidates, groups = distributed.gather(anchors), groups_of(embeddings)
    own = torch.arange(len(anchors), device=anchors.device) + distributed.rank() * len(anchors)
    parts = [(anchors, groups[own], own)]
    if len(small):
        parts.append((small.flatten(0, 1), groups[own[: small.shape[1]]].repeat(len(small)), None))
    if negatives is not None and len(negatives):
        candidates = torch.cat([candidates, negatives.to(candidates.dtype)])
        nobody = groups.min() - 1
        groups = torch.cat([groups, nobody.expand(len(negatives))])
    means = [loss(part, candidates, of, groups, itself, temperature) for part, of, itself in parts]
    if distributed.world_size() == len(parts) == 1:
        return means[0]
    with_kin = [(kin_count(of, groups, itself) > 0).sum() for _, of, itself in parts]
    everywhere = distributed.sum_over_ranks(sum(with_kin[1:], with_kin[0])).clamp(min=1)
    shares = [mean * (distributed.world_size() * n) / everywhere for mean, n in zip(means, with_kin, strict=True)]
    return sum(shares[1:], shares[0])
