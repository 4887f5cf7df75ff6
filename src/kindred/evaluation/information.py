"""Bounds of the mutual information I(x; y), in nats: InfoNCE's from below, CLUB's and the variational one from above."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence


def info_nce_bound(loss: Tensor, candidates: int) -> Tensor:
    """I >= log N - L (van den Oord et al. 2018, arXiv:1807.03748, eq. 5). However well it is told, no more than log N.

    Args:
        loss: InfoNCE, a mean over anchors.
        candidates: N, the terms in the denominator: the positive and its negatives.

    Returns:
        The bound, of the shape of `loss`.
    """
    return math.log(candidates) - loss


def club_bound(log_likelihoods: Tensor) -> Tensor:
    """I <= E_p(x,y) log q(y|x) - E_p(x)p(y) log q(y|x) (CLUB, Cheng et al. 2020, arXiv:2006.12013, eq. 9).

    An upper bound if q is p(y|x), and also where it is merely closer to p(y|x) than to p(y) (theorem 3.2).

    Args:
        log_likelihoods: [N, N], log q(y_j | x_i) of N samples (x_i, y_i).

    Returns:
        A scalar. The mean over p(x)p(y) is that over all N^2 pairs, as in the paper.
    """
    return log_likelihoods.diagonal().mean() - log_likelihoods.mean()


def variational_bound(posterior: Distribution, prior: Distribution) -> Tensor:
    """I(x; z) <= E KL(q(z|x) || p(z)) of an encoder that gives a distribution (Barber & Agakov 2003; Alemi et al. 2018).

    It is above I by KL(q(z) || p(z)), what the codes of all x together lie apart from p(z): with a VAE's prior the rate term
    of its loss (arXiv:1711.00464, section 3; Poole et al. 2019, arXiv:1905.06922, eq. 1).

    Args:
        posterior: q(z|x_i) of N samples, a batch of shape [N].
        prior: p(z), one distribution over the same events; of a kind that torch knows the KL divergence of.

    Returns:
        A scalar, the mean over the samples.

    Raises:
        ValueError: a posterior whose batch is not [N], such as a Normal that was not made Independent.
    """
    if len(posterior.batch_shape) != 1 or prior.batch_shape or prior.event_shape != posterior.event_shape:
        raise ValueError(
            f"posterior and prior have batches {tuple(posterior.batch_shape)} and {tuple(prior.batch_shape)} of events "
            f"{tuple(posterior.event_shape)} and {tuple(prior.event_shape)}: give a batch [N] and one of the same events "
            "(torch.distributions.Independent makes dimensions events)"
        )
    return kl_divergence(posterior, prior).mean()


def linear_gaussian(x: Tensor, y: Tensor) -> Tensor:
    """log q(y_j | x_i) of the Gaussian whose mean is linear in x, fitted by maximum likelihood to every other sample.

    What CLUB needs where nothing better is known of p(y|x); exact in the limit if x and y are jointly Gaussian. The
    samples that it was fitted to are not those that are returned: of its own samples even a fit of noise to noise knows
    much, which would be taken for information.

    Args:
        x: [N, F], of samples in any order that has nothing to do with them.
        y: [N, G], N > 2 (F + G).

    Returns:
        [N // 2, N // 2], of the samples at odd places.

    Raises:
        ValueError: too few samples.
    """
    samples, width = y.shape
    if samples <= 2 * (x.shape[1] + width):
        raise ValueError(
            f"x and y have {x.shape[1]} + {width} dimensions: {samples} samples are too few, take more than twice as many"
        )
    # Centred first, or what x and y have in common with a constant would leave few digits for what they have not.
    (x, held_x), (y, held_y) = ((z[::2] - z[::2].mean(dim=0), z[1::2] - z[::2].mean(dim=0)) for z in (x, y))
    weights = torch.linalg.lstsq(x, y).solution
    residual = y - x @ weights
    factor = torch.linalg.cholesky(residual.T @ residual / len(x))
    white_y, white_mean = (
        torch.linalg.solve_triangular(factor, z.T, upper=False).T for z in (held_y, held_x @ weights)
    )
    log_volume = factor.diagonal().log().sum() + width / 2 * math.log(2 * math.pi)
    return -torch.cdist(white_mean, white_y).square() / 2 - log_volume
