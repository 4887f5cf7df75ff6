"""Bounds of mutual information on correlated Gaussians, where I = -(d / 2) log(1 - rho^2)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, kl_divergence

from kindred.evaluation.information import club_bound, info_nce_bound, linear_gaussian, variational_bound
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


def gaussians(mean, deviation):
    """Independent coordinates, as a VAE's encoder gives them."""
    return Independent(Normal(mean, torch.as_tensor(deviation).double().expand_as(mean)), 1)


GRID = [(dim, rho) for dim in (1, 4, 16) for rho in (0.0, 0.3, 0.7, 0.95)]


@pytest.mark.parametrize(("dim", "rho"), GRID)
def test_the_variational_bound_is_i_with_the_codes_own_distribution_and_above_it_by_a_divergence_with_another(dim, rho):
    x, _, information = correlated(4000, dim, rho)
    posterior = gaussians(rho * x, math.sqrt(1 - rho**2))  # of y, whose codes together are standard normal
    error = 4 * dim**0.5 * rho**2 / math.sqrt(2 * 4000) + 1e-9  # of the mean of rho^2 x^2 / 2
    assert variational_bound(posterior, gaussians(torch.zeros(dim).double(), 1.0)).item() == pytest.approx(
        information, abs=error
    )
    for shift, scale in ((0.0, 2.0), (0.5, 1.0), (0.0, 0.5)):
        prior = gaussians(torch.full((dim,), shift).double(), scale)
        apart = kl_divergence(gaussians(torch.zeros(dim).double(), 1.0), prior).item()
        # The prior's mean and deviation weigh the samples' error by up to 4 and by the shift.
        excess = variational_bound(posterior, prior).item() - information
        assert excess == pytest.approx(apart, abs=4 * error + 4 * shift * rho * dim**0.5 / math.sqrt(4000))
        assert excess > 0


@pytest.mark.parametrize(("dim", "rho"), GRID[1:])
def test_lower_bounds_are_below_i_and_upper_bounds_above(dim, rho):
    lower, batch = [], 256
    for seed in range(8):
        x, y, information = correlated(batch, dim, rho, seed)
        lower.append(info_nce_bound(F.cross_entropy(log_density(x, y, rho).T, torch.arange(batch)), batch))
    lower = torch.stack(lower)
    x, y, _ = correlated(4000, dim, rho)
    upper = variational_bound(gaussians(rho * x, math.sqrt(1 - rho**2)), gaussians(torch.zeros(dim).double(), 1.3))
    assert lower.mean() - 3 * lower.std() / math.sqrt(8) <= information
    assert upper > information
    if rho >= 0.3:
        assert club_bound(log_density(x[:1000], y[:1000], rho)) > information


def test_a_posterior_that_is_no_batch_of_codes_is_refused():
    mean, one = torch.zeros(10, 3), torch.ones(())
    prior = Independent(Normal(torch.zeros(3), one), 1)
    with pytest.raises(ValueError, match=r"batches \(10, 3\) and \(\) of events \(\) and \(3,\).*Independent"):
        variational_bound(Normal(mean, one), prior)  # its mean would be over coordinates too
    with pytest.raises(ValueError, match=r"events \(3,\) and \(2,\)"):
        variational_bound(Independent(Normal(mean, one), 1), Independent(Normal(torch.zeros(2), one), 1))
    assert variational_bound(Independent(Normal(mean, one), 1), prior) == 0


def test_too_few_samples_are_an_error():
    x, y, _ = correlated(16, 4, 0.5)
    with pytest.raises(ValueError, match=r"4 \+ 4 dimensions: 16 samples are too few"):
        linear_gaussian(x, y)
    x, y, _ = correlated(17, 4, 0.5)
    assert linear_gaussian(x, y).isfinite().all()
