"""How embeddings lie on the unit sphere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kindred import distributed


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
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings, dim=-1)
        views, batch = unit.shape[:2]
        image_sums = unit.sum(dim=0)
        sums = torch.cat([image_sums.sum(dim=0), image_sums.square().sum()[None], unit.square().sum()[None]])
        sums = distributed.sum_over_ranks(sums)
        everything, within_images, itself = sums[:-2].square().sum(), sums[-2], sums[-1]
        images = batch * distributed.world_size()
        positive = (within_images - itself) / torch.full_like(itself, images * views * (views - 1))
        negative = (everything - within_images) / torch.full_like(itself, images * (images - 1) * views**2)
    # 0 / 0 would be NaN only without rounding.
    nan = torch.full_like(itself, torch.nan)
    return positive if views > 1 else nan, negative if images > 1 else nan
