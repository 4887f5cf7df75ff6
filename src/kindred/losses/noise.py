"""Noise-contrastive estimation of a softmax over all images, of which a step sees a sample."""

import math

from torch import Tensor
from torch.nn.functional import softplus

from kindred.losses.partition import check_temperature
from kindred.losses.queued import compare_with_queue, over_queries


def noise_contrast(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float | Tensor,
    *,
    log_partition: float | Tensor = 0.0,
    unit_negatives: bool = False,
) -> Tensor:
    """Each query's key told apart from m samples of noise (InstDisc, Wu et al. 2018, arXiv:1805.01978, eq. 5 to 7).

    -log h(key) - sum_j log(1 - h(negative_j)), h = P / (P + m / n), where P = exp(s / tau) / Z is the softmax over n images
    and the noise is uniform, 1 / n: h is the sigmoid of s / tau - log(Z / n) - log m.

    Args:
        queries, keys, negatives, temperature, unit_negatives: see `info_nce`; the m negatives are the same for every query.
        log_partition: log(Z / n), a constant; 0 takes exp(s / tau) for normalised.

    Returns:
        The mean over the queries.
    """
    check_temperature(temperature)
    own, others = compare_with_queue(queries, keys, negatives, unit_negatives)
    shift = log_partition + math.log(max(1, len(negatives)))
    return over_queries(softplus(shift - own / temperature) + softplus(others / temperature - shift).sum(dim=1))
