"""Bounds of the mutual information I(x; y), in nats: InfoNCE's from below, CLUB's from above."""

import math

import torch
from torch import Tensor


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


def linear_gaussian(x: Tensor, y: Tensor) -> Tensor:
    """log q(y_j | x_i) of the Gaussian whose mean is linear in x, fitted to the samples by maximum likelihood.

    What CLUB needs where nothing better is known of p(y|x); exact if x and y are jointly Gaussian.

    Args:
        x: [N, F].
        y: [N, G], N > F + G.

    Returns:
        [N, N].

    Raises:
        ValueError: too few samples.
    """
    samples, width = y.shape
    if samples <= x.shape[1] + width:
        raise ValueError(f"x and y have {x.shape[1]} + {width} dimensions: {samples} samples are too few, take more")
    inputs = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    mean = inputs @ torch.linalg.lstsq(inputs, y).solution
    residual = y - mean
    factor = torch.linalg.cholesky(residual.T @ residual / samples)
    white_y, white_mean = (torch.linalg.solve_triangular(factor, z.T, upper=False).T for z in (y, mean))
    log_volume = factor.diagonal().log().sum() + width / 2 * math.log(2 * math.pi)
    return -torch.cdist(white_mean, white_y).square() / 2 - log_volume
