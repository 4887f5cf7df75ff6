"""Bounds of mutual information on correlated Gaussians, where I = -(d / 2) log(1 - rho^2)."""

import math

import pytest
import torch
import torch.nn.functional as F

from kindred.evaluation.information import club_bound, info_nce_bound, linear_gaussian
from kindred.losses import image_contrast


def correlated(samples, dim, rho, seed=0):
    """x and y [samples, dim], standard normal, each pair of coordinates correlated by rho; and I(x; y)."""
    x, noise = torch.randn(2, samples, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -dim / 2 * math.log(1 - rho**2)


def log_density(x, y, rho):
    """log p(y_j | x_i) [N, N]."""
    variance = 1 - rho**2
    return -((y[None] - rho * x[:, None]) ** 2 / variance + math.log(2 * math.pi * variance)).sum(dim=2) / 2


@pytest.mark.parametrize(("dim", "rho"), [(1, 0.5), (4, 0.7), (10, 0.9)])
def test_info_nce_with_the_best_critic_stays_below_log_n_and_below_i(dim, rho):
    batch, bounds = 128, []
    for seed in range(20):
        x, y, information = correlated(batch, dim, rho, seed)
        # Anchors are y: log p(y|x) is then the best critic, log p(y|x) / p(y), but for a constant in each row.
        bounds.append(info_nce_bound(F.cross_entropy(log_density(x, y, rho).T, torch.arange(batch)), batch))
    bound, error = torch.stack(bounds).mean(), torch.stack(bounds).std() / math.sqrt(20)
    assert max(bounds) <= math.log(batch)
    assert bound <= information + 3 * error
    # Tight where there are more candidates than e^I; where there are not, log N is all it can say.
    assert bound >= 0.9 * min(information, math.log(batch)) - 3 * error


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_info_nce_of_our_losses_stays_below_i(temperature):
    bounds = []
    for seed in range(20):
        x, y, information = correlated(128, 4, 0.7, seed)
        bounds.append(info_nce_bound(image_contrast(x, y, temperature), 128))
    assert torch.stack(bounds).mean() < information
    if temperature == 0.2:
        assert torch.stack(bounds).mean() > 0.5 * information  # what cosines can tell of it


@pytest.mark.parametrize(("dim", "rho"), [(1, 0.5), (4, 0.7), (10, 0.9)])
def test_club_stays_above_i(dim, rho):
    x, y, information = correlated(2000, dim, rho)
    exact = dim * rho**2 / (1 - rho**2)  # E (y - rho x)^2 is 1 - rho^2 for pairs, 1 + rho^2 for strangers
    assert exact > information
    known, fitted = club_bound(log_density(x, y, rho)), club_bound(linear_gaussian(x, y))
    for bound in (known, fitted):
        assert bound > information
        assert bound.item() == pytest.approx(exact, rel=0.1)


def test_club_of_independent_samples_is_about_zero():
    x, y, information = correlated(2000, 3, 0.0)
    assert information == 0
    assert club_bound(linear_gaussian(x, y)).abs() < 0.01


def test_what_a_fit_knows_of_its_own_samples_is_no_information():
    # Of 200 samples in 32 + 32 dimensions it knows 7.8 nats of nothing.
    bounds = torch.stack([club_bound(linear_gaussian(*correlated(200, 32, 0.0, seed)[:2])) for seed in range(40)])
    assert bounds.mean().abs() < 3 * bounds.std() / math.sqrt(40)
    assert bounds.std() < 2


def test_an_offset_costs_no_digits():
    x, y, _ = correlated(2000, 4, 0.7)
    far_x, far_y = (x + 1000).float(), (y - 1000).float()
    exact = club_bound(linear_gaussian(far_x.double(), far_y.double()))
    assert club_bound(linear_gaussian(far_x, far_y)).item() == pytest.approx(exact.item(), rel=1e-4)


def test_club_does_not_depend_on_scale_and_shift():
    x, y, _ = correlated(300, 4, 0.7)
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    changed = club_bound(linear_gaussian(3 * x - 1, y @ mixing + 5))
    torch.testing.assert_close(changed, club_bound(linear_gaussian(x, y)))


def test_the_fit_is_the_density_that_scipy_knows():
    from scipy.stats import multivariate_normal

    x, y, _ = correlated(100, 2, 0.6)
    inputs = torch.cat([x, torch.ones(100, 1).double()], dim=1)
    fitted, held = slice(None, None, 2), slice(1, None, 2)
    weights = torch.linalg.pinv(inputs[fitted]) @ y[fitted]
    residual = y[fitted] - inputs[fitted] @ weights
    covariance = residual.T @ residual / 50
    expected = [[multivariate_normal(m, covariance).logpdf(v) for v in y[held]] for m in (inputs[held] @ weights)[:5]]
    torch.testing.assert_close(linear_gaussian(x, y)[:5], torch.tensor(expected).double())


def test_too_few_samples_are_an_error():
    x, y, _ = correlated(16, 4, 0.5)
    with pytest.raises(ValueError, match=r"4 \+ 4 dimensions: 16 samples are too few"):
        linear_gaussian(x, y)
    x, y, _ = correlated(17, 4, 0.5)
    assert linear_gaussian(x, y).isfinite().all()
