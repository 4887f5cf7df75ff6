"""Other ways to contrast kin with the rest, to be put in the place of `group_contrast`: each says what tau means to it.

They take its arguments (anchors [A, D], candidates [M, D], anchor_groups [A], candidate_groups [M], self_columns [A] or
None, temperature) and then their own, and keep its promises: any scale and precision of embeddings, the mean over the
anchors that have kin, no waiting for the device, differentiable in the embeddings and in a temperature that is a tensor,
finite for temperatures in [1e-3, 1e3]. An anchor's negatives are the candidates of other groups; where it has none,
what they add is 0. `simple`, `hard_simple`, `margin` and `triplet` have no temperature in them, and ignore it. The
choice of negatives carries no gradient. All hold the similarities [A, M].
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kindred.losses.partition import check_temperature
from kindred.sphere import unit

MINING = ("all", "hard", "semi_hard")


def supcon_in(anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature) -> Tensor:
    """L_in of Khosla et al. 2020 (arXiv:2004.11362), eq. 3: the mean over kin is inside the logarithm.

    The kin that are near already take the gradient from those that are far, which is why L_out is better (section 3.2.2).
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    logits = over(similarities, temperature)
    count = kin.sum(dim=1).clamp(min=1).to(logits.dtype)
    losses = _log_sum_exp(logits, kin | negatives) - _log_sum_exp(logits, kin) + count.log()
    return _over_anchors(losses, kin)


def simple(
    anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature, weight: float = 1.0
) -> Tensor:
    """-s_pos + lambda * sum of s_neg (Wang & Liu 2021, arXiv:2012.09740, eq. 2): every negative is pushed alike.

    Args:
        weight: lambda times the number of negatives. With 1, which makes lambda their reciprocal, this is what InfoNCE
            times tau tends to, up to a constant, when tau grows.
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    return _over_anchors(weight * _mean(similarities, negatives) - _mean(similarities, kin), kin)


def hard_simple(
    anchors,
    candidates,
    anchor_groups,
    candidate_groups,
    self_columns,
    temperature,
    alpha: float = 0.0819,
    weight: float = 1.0,
) -> Tensor:
    """`simple` of the hard negatives only (Wang & Liu 2021, arXiv:2012.09740).

    Args:
        alpha: which share of an anchor's negatives is hard; the paper's 4,095 of 50,000.
        weight: lambda times the number of hard negatives.
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    hard = hardest(similarities, negatives, alpha)
    return _over_anchors(weight * _mean(similarities, hard) - _mean(similarities, kin), kin)


def hard_contrastive(
    anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature, alpha: float = 0.0819
) -> Tensor:
    """`group_contrast` with kin and hard negatives alone in the denominator (Wang & Liu 2021, arXiv:2012.09740).

    Args:
        alpha: which share of an anchor's negatives is hard; the paper's 4,095 of 50,000. With 1 it is `group_contrast`.
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    logits = over(similarities, temperature)
    losses = _log_sum_exp(logits, kin | hardest(similarities, negatives, alpha)) - _mean(logits, kin)
    return _over_anchors(losses, kin)


def decoupled(anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature) -> Tensor:
    """DCL (Yeh et al. 2022, arXiv:2110.06848, eq. 6): the kin are left out of the denominator.

    In InfoNCE an easy positive takes the gradient from its negatives too; here it does not, so small batches suffice.
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    logits = over(similarities, temperature)
    losses = _log_sum_exp(logits, negatives).where(negatives.any(dim=1), 0) - _mean(logits, kin)
    return _over_anchors(losses, kin)


def margin(
    anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature, distance: float = 1.0
) -> Tensor:
    """The pair loss of Hadsell, Chopra & LeCun 2006, eq. 4, with D the distance of unit vectors.

    D^2 / 2 for kin and max(0, m - D)^2 / 2 for negatives; an anchor's kin and its negatives weigh the same, however many.

    Args:
        distance: m, beyond which negatives are left alone; two opposite vectors are 2 apart.
    """
    if not distance > 0:
        raise ValueError(f"distance must be greater than 0, got {distance}")
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    squared = 2 - 2 * similarities
    # The root has no slope at 0, where a negative that coincides with the anchor has no direction to go either.
    shortfall = (distance - squared.clamp(min=torch.finfo(squared.dtype).eps).sqrt()).relu()
    return _over_anchors((_mean(squared, kin) + _mean(shortfall.square(), negatives)) / 2, kin)


def triplet(
    anchors,
    candidates,
    anchor_groups,
    candidate_groups,
    self_columns,
    temperature,
    margin: float = 0.2,
    mining: str = "hard",
) -> Tensor:
    """max(0, D_ap^2 - D_an^2 + margin) on unit vectors (FaceNet, Schroff et al. 2015, arXiv:1503.03832, section 3.1).

    Args:
        margin: how much farther, in squared distance, a negative should be than kin.
        mining: which of an anchor's triplets, each with one of its kin and one negative, it is the mean of. `all`;
            `hard`: the one of the farthest kin and the nearest negative (Hermans et al. 2017, arXiv:1703.07737);
            `semi_hard`: those whose negative is farther than the kin, but by less than the margin (FaceNet, section 3.2).
    """
    if not margin > 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if mining not in MINING:
        raise ValueError(f"mining must be one of {', '.join(MINING)}, got {mining!r}")
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    distances = 2 - 2 * similarities
    if len(candidates) == 0:
        return distances.sum()  # 0
    if mining == "hard":
        farthest = distances.masked_fill(~kin, -torch.inf).amax(dim=1)
        nearest = distances.masked_fill(~negatives, torch.inf).amin(dim=1)
        return _over_anchors((farthest - nearest + margin).relu(), kin)
    # With the negatives in order those below a reach are the first few, whose sum is known: no [A, M, M] triplets.
    ordered = distances.masked_fill(~negatives, torch.inf).sort(dim=1).values
    sums = torch.nn.functional.pad(ordered.masked_fill(ordered == torch.inf, 0).cumsum(dim=1), (1, 0))
    reach = distances + margin
    last = torch.searchsorted(ordered.detach(), reach.detach().contiguous())
    first = torch.zeros_like(last)
    if mining == "semi_hard":
        first = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)
    hinges = (last - first) * reach - (sums.gather(1, last) - sums.gather(1, first))
    mined = last - first if mining == "semi_hard" else negatives.sum(dim=1, keepdim=True)
    triplets = torch.where(kin, mined, 0).sum(dim=1)
    return _over_anchors(torch.where(kin, hinges, 0).sum(dim=1) / triplets.clamp(min=1), kin)


def nce(
    anchors,
    candidates,
    anchor_groups,
    candidate_groups,
    self_columns,
    temperature,
    log_partition: float | Tensor = 0.0,
) -> Tensor:
    """Binary noise-contrastive estimation (Gutmann & Hyvarinen 2010; Mnih & Teh 2012, arXiv:1206.6426).

    Each of an anchor's kin is told apart from its k negatives, samples of a noise p_n, by the model p = p_n exp(s/tau) / Z:
    -log sigma(log p - log k p_n) of the kin, -log(1 - sigma(...)) summed over the noise. The gradient tends to that of
    maximum likelihood as k grows.

    Args:
        log_partition: log Z; 0 takes the model for normalised, as Mnih & Teh do.
    """
    similarities, kin, negatives = _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns)
    noise = negatives.sum(dim=1, keepdim=True).clamp(min=1).to(similarities.dtype)
    odds = over(similarities, temperature) - log_partition - noise.log()
    return _over_anchors(_mean(softplus(-odds), kin) + softplus(odds).where(negatives, 0).sum(dim=1), kin)


def _compare(anchors, candidates, anchor_groups, candidate_groups, self_columns):
    """Similarities [A, M], and which of them are of kin, which of negatives; those of the anchors themselves are neither."""
    with torch.autocast(anchors.device.type, enabled=False):
        similarities = unit(anchors) @ unit(candidates).T
    same = anchor_groups[:, None] == candidate_groups
    kin = same if self_columns is None else same.scatter(1, self_columns[:, None], False)
    return similarities, kin, ~same


def over(similarities, temperature):
    check_temperature(temperature)
    return similarities / temperature


def hardest(similarities, negatives, alpha):
    """Of each row's negatives the share alpha that is most similar, rounded, at least one; of equals as many as are due."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be greater than 0 and at most 1, got {alpha}")
    values = similarities.detach().masked_fill(~negatives, -torch.inf)
    width = values.shape[1]
    most = min(width, math.ceil(alpha * width) + 1)  # a row has at most `width` negatives; one more for the rounding
    due = (alpha * negatives.sum(dim=1, keepdim=True)).round().clamp(min=1)
    ranks = torch.arange(most, device=values.device).expand(len(values), -1)
    return negatives & torch.zeros_like(negatives).scatter(1, values.topk(most).indices, ranks < due)


def _mean(values, mask):
    """The mean of each row's values under the mask; 0 where there is none."""
    return values.where(mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _log_sum_exp(logits, mask):
    """Over each row's logits under the mask. A row without any is finite, so that it can be left out with its gradient."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).logsumexp(dim=1)


def _over_anchors(losses, kin):
    """The mean over the anchors that have kin."""
    return _mean(losses[None], kin.any(dim=1)[None])[0]
