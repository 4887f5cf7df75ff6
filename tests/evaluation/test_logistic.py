"""Logistic regression against scikit-learn's, at its optimum, on one process and several."""

import pytest
import torch
from clouds import clouds, theirs
from ranks import run_ranks
from torch.nn.functional import cross_entropy, one_hot

from kindred.distributed import rank, world_size
from kindred.evaluation.logistic import Axes, Linear, fit_logistic, leading_axes, mean_gradient


def objective(classifier, features, labels, penalty):
    return cross_entropy(classifier(features), labels) + penalty / 2 * classifier.weight.square().sum()


@pytest.mark.parametrize("penalty", [10.0, 0.1, 1e-3])
def test_the_optimum_is_scikit_learns(penalty):
    features, labels = clouds(200)
    ours, expected = fit_logistic(features, labels, 4, penalty, tolerance=1e-7), theirs(features, labels, penalty)
    torch.testing.assert_close(ours.weight, expected.weight, rtol=1e-4, atol=1e-6)
    # A constant added to all biases changes no probability.
    torch.testing.assert_close(ours.bias - ours.bias.mean(), expected.bias - expected.bias.mean(), rtol=1e-4, atol=1e-5)
    assert objective(ours, features, labels, penalty) <= objective(expected, features, labels, penalty) + 1e-10


def test_the_default_tolerance_is_at_the_optimum_for_all_that_matters():
    features, labels = clouds(200)
    loose, tight = (fit_logistic(features, labels, 4, 1e-2, tolerance=t) for t in (1e-5, 1e-7))
    assert abs(objective(loose, features, labels, 1e-2) - objective(tight, features, labels, 1e-2)) < 1e-7


def test_where_it_starts_does_not_matter():
    features, labels = clouds(100)
    start = Linear(torch.ones(4, 6, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64))
    from_there = fit_logistic(features, labels, 4, 0.1, start, tolerance=1e-7)
    from_zero = fit_logistic(features, labels, 4, 0.1, tolerance=1e-7)
    torch.testing.assert_close(from_there.weight, from_zero.weight, rtol=1e-3, atol=1e-5)


def test_principal_axes_keep_the_problem():
    """In them features are centred, uncorrelated, of mean square 1; the optimum's probabilities are the same."""
    features, labels = clouds(150)
    axes = Axes.of(features)
    turned = axes(features)
    covariance = turned.T @ turned / len(turned)
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-9, rtol=0)
    torch.testing.assert_close(turned.mean(dim=0), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    assert turned.square().mean().item() == pytest.approx(1)
    scale = (features - features.mean(dim=0)).square().mean()
    there = fit_logistic(turned, labels, 4, 0.1, tolerance=1e-7)(turned).softmax(dim=1)
    here = theirs(features, labels, 0.1 * float(scale))(features).softmax(dim=1)
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6)


def test_features_that_are_all_the_same_have_axes():
    turned = Axes.of(torch.ones(10, 3))(torch.ones(4, 3))
    assert turned.tolist() == [[0.0] * 3] * 4


def test_not_converged_is_a_warning_that_says_so():
    features, labels = clouds(200)
    with pytest.warns(UserWarning, match=r"has not converged: with penalty 1\.0e-03 its gradient is .* 3 iterations"):
        fit_logistic(features, labels, 4, 1e-3, max_iterations=3)


def test_penalty_must_be_positive():
    with pytest.raises(ValueError, match=r"penalty must be greater than 0, got 0"):
        fit_logistic(*clouds(10), 4, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_precision_is_raised_to_float64(dtype):
    features, labels = clouds(200)
    features = features.to(dtype)
    ours, expected = fit_logistic(features, labels, 4, 0.01, tolerance=1e-8), theirs(features.double(), labels, 0.01)
    torch.testing.assert_close(ours.weight, expected.weight, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_what_was_fitted_is_below_the_tolerance():
    features, labels = clouds(300)
    fitted = fit_logistic(features, labels, 4, 1e-2, tolerance=1e-6)
    residuals = (fitted(features).softmax(dim=1) - one_hot(labels, 4)) / len(labels)
    axes = Axes.of(features)
    by_weight = (residuals.T @ (features - axes.mean) + 1e-2 * fitted.weight) @ axes.rotation * axes.scale
    scale = (axes.variance * axes.scale**2 / 4 + 1e-2).sqrt()
    assert (by_weight / scale).abs().max() < 1e-6
    assert (residuals.sum(dim=0) * 2).abs().max() < 1e-6
    _, weight, bias = mean_gradient(fitted, features, labels)
    torch.testing.assert_close(weight, residuals.T @ features)
    torch.testing.assert_close(bias, residuals.sum(dim=0))


def test_an_offset_of_the_features_changes_nothing_but_the_bias():
    features, labels = clouds(200)
    near, far = (fit_logistic(x, labels, 4, 0.1, tolerance=1e-6) for x in (features, features + 1e5))
    torch.testing.assert_close(near.weight, far.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(near(features).softmax(dim=1), far(features + 1e5).softmax(dim=1), rtol=0, atol=1e-4)


def test_classes_that_are_absent_and_features_that_are_constant():
    features, labels = clouds(60)
    features = torch.cat([features, torch.full((60, 2), 7.0, dtype=torch.float64)], dim=1)
    fitted = fit_logistic(features, 2 * labels, 9, 0.1)
    assert set(fitted(features).argmax(dim=1).tolist()) <= {0, 2, 4, 6}
    torch.testing.assert_close(fitted.weight[:, 6:], torch.zeros(9, 2, dtype=torch.float64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_an_error(value):
    features, labels = clouds(20)
    features[3, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        fit_logistic(features, labels, 4, 0.1)
    with pytest.raises(ValueError, match="no labelled example"):
        fit_logistic(features[:0], labels[:0], 4, 0.1)


def fitted_to_shares(shares):
    """Fit in float32 features, of which each rank has some rows."""
    features, labels = clouds(500, dim=20)
    features, rows = features.float(), shares[rank()] if world_size() > 1 else torch.arange(500)
    axes = Axes.of(features[:300])
    return tuple(fit_logistic(features[rows], labels[rows], 4, 1e-3, tolerance=1e-4, axes=axes))


def test_however_the_rows_are_dealt_to_ranks_the_fit_is_that_of_one_to_the_bit():
    """Without rounding the weights differ by 0.03 after 97 passes, and the number of passes too."""
    everything = torch.arange(500)
    weight, bias = fitted_to_shares([everything])
    for shares in ([everything[r::2] for r in range(2)], [everything[r::3] for r in range(3)]):
        for found in run_ranks(fitted_to_shares, len(shares), shares):
            assert torch.equal(found[0], weight)
            assert torch.equal(found[1], bias)


def test_leading_axes_are_the_principal_ones_where_all_examples_count():
    features, _ = clouds(80, dim=12)
    turned = leading_axes(features, 5)(features).double()
    centred = features - features.mean(dim=0)
    expected = torch.linalg.svdvals(centred)[:5]
    torch.testing.assert_close(turned.norm(dim=0).sort(descending=True).values, expected, rtol=1e-5, atol=1e-5)
    assert leading_axes(features[:4], 5)(features).shape == (80, 3)  # no more than there are
