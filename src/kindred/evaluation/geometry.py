"""How embeddings lie on the unit sphere: what contrasting pulls together, and how it spreads the rest.

Alignment and uniformity: Wang & Isola, ICML 2020 (arXiv:2005.10242). Tolerance: Wang & Liu, CVPR 2021 (arXiv:2012.09740).
Effective rank: Garrido et al., ICML 2023 (RankMe, arXiv:2210.02885). All of them raise half precision to float32.
"""

import torch
from torch import Tensor

from kindred import distributed
from kindred.sphere import unit


@torch.no_grad()
def pair_similarity(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine similarity of positive and of negative pairs, over the global batch.

    No [V*B, V*B] matrix: the sum of the similarities in a set of unit vectors is the squared length of their sum, so
    O(V B D). With the sum of an image's views s_b and the sum of everything s, ordered pairs add up to

        positive: sum_b |s_b|^2 - sum |z|^2,    negative: |s|^2 - sum_b |s_b|^2.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images, not necessarily normalised.

    Returns:
        Two scalars: the mean over pairs of different views of one image (NaN with one view), and over pairs of views of
        different images (NaN with one image).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        points = unit(embeddings)
        views, batch = points.shape[:2]
        image_sums = points.sum(dim=0)
        sums = torch.cat([image_sums.sum(dim=0), image_sums.square().sum()[None], points.square().sum()[None]])
        sums = distributed.sum_over_ranks(sums)
        everything, within_images, itself = sums[:-2].square().sum(), sums[-2], sums[-1]
        images = batch * distributed.world_size()
        positive = (within_images - itself) / torch.full_like(itself, images * views * (views - 1))
        negative = (everything - within_images) / torch.full_like(itself, images * (images - 1) * views**2)
    # 0 / 0 would be NaN only without rounding.
    nan = torch.full_like(itself, torch.nan)
    return positive if views > 1 else nan, negative if images > 1 else nan


def alignment(embeddings: Tensor) -> Tensor:
    """E |f(x) - f(y)|^2 over positive pairs, f on the unit sphere: 0 where all views of an image meet, 2 at chance.

    Args:
        embeddings: [V, B, D], V views of each of the rank's B images; the mean is over the global batch.

    Returns:
        A scalar; NaN with one view.
    """
    return 2 - 2 * pair_similarity(embeddings)[0]  # |x - y|^2 = 2 - 2 x.y on the sphere


@torch.no_grad()
def uniformity(embeddings: Tensor, chunk_size: int = 1024) -> Tensor:
    """log E exp(-2 |f(x) - f(y)|^2) over all pairs of different images: 0 if they are one point, the lower the more uniform.

    Uniform on the sphere of dimension D - 1 it comes near -4 as D grows.

    Args:
        embeddings: [N, D], one per image.
        chunk_size: rows of the [N, N] similarities that are in memory at once; the result does not depend on it.

    Returns:
        A float64 scalar; NaN with fewer than two images.
    """
    points, count = unit(embeddings), len(embeddings)
    potential = torch.zeros((), dtype=torch.float64, device=points.device)
    with torch.autocast(points.device.type, enabled=False):
        for start in range(0, count, chunk_size):
            similarities = points[start : start + chunk_size] @ points.T
            potentials = similarities.sub_(1).mul_(4).exp_()  # exp(-2 (2 - 2 s))
            potentials.diagonal(start).zero_()  # an image with itself is no pair
            potential += potentials.sum(dtype=torch.float64)
    return (potential / torch.full_like(potential, count * (count - 1))).log()


@torch.no_grad()
def tolerance(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine similarity of pairs of different images of one class: how far the classes are torn apart.

    Over the pairs of class c the similarities add up to |S_c|^2 - sum |z|^2, S_c the sum of its unit vectors: O(N D).

    Args:
        embeddings: [N, D], one per image.
        labels: [N] int64; images with label -1 are left out.

    Returns:
        A scalar; NaN where no class has two images.
    """
    points = unit(embeddings)
    columns = labels.clamp(min=0)
    known = (labels >= 0).to(points.dtype)
    classes = int(columns.max()) + 1 if len(columns) else 0
    sums = points.new_zeros(classes, points.shape[1]).index_add_(0, columns, points * known[:, None])
    sizes = points.new_zeros(classes).index_add_(0, columns, known)
    similarities = sums.square().sum() - (points.square().sum(dim=1) * known).sum()
    pairs = (sizes * (sizes - 1)).sum()
    return torch.where(pairs > 0, similarities / pairs, torch.nan)


@torch.no_grad()
def effective_rank(embeddings: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe: exp of the entropy of the embeddings' singular values (equations 1 and 2); from 1 to min(N, D).

    The singular values come from the smaller Gram matrix, [D, D] or [N, N], in float64, so their relative precision is
    1e-8, and there are min(N, D) of them: the larger matrix has zeros more, each of which would count by eps. The
    embeddings are taken as they come: neither centred nor normalised, as in the paper.

    Args:
        embeddings: [N, D]; the paper uses 25,600 images.
        eps: added to each normalised singular value, as in the paper.
    """
    x = embeddings.double()
    x = x / x.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)  # the rank does not depend on the scale
    gram = x.T @ x if len(x) >= x.shape[1] else x @ x.T
    return entropy_rank(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt(), eps)


def entropy_rank(values: Tensor, eps: float) -> Tensor:
    """How many of `values` [n], none negative, matter: exp of the entropy of their shares; n if all are the same."""
    p = values / values.sum().clamp(min=1e-300) + eps
    return (-(p * p.log()).sum()).exp()
