"""The linear classifier against scikit-learn's, at its optimum, and the choice of its penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from kindred.evaluation import linear
from kindred.evaluation.linear import Axes, Linear, fit_logistic, linear_probe


def clouds(count, dim=6, classes=4, seed=0, spread=1.0):
    """Correlated, shifted and badly scaled features float64 [N, F] of overlapping classes, and labels [N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64) * spread
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(98), dtype=torch.float64)
    return (centres[labels] + noise) @ mixing * torch.logspace(-1, 1, dim, dtype=torch.float64) + 3, labels


def theirs(features, labels, penalty):
    """scikit-learn minimises C * (sum of cross-entropies) + |W|^2 / 2."""
    model = LogisticRegression(C=1 / (len(labels) * penalty), solver="newton-cholesky", tol=1e-12)
    model.fit(features.numpy(), labels.numpy())
    return Linear(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))


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


def test_the_penalty_is_the_best_on_val_and_the_last_fit_has_train_and_val():
    train, val, test = clouds(24, dim=12), clouds(400, dim=12, seed=1), clouds(400, dim=12, seed=2)
    penalties = [10.0, 1.0, 0.1, 0.01]
    probe = linear_probe(*train, *val, 4, penalties=penalties)
    axes = Axes.of(train[0])
    fits = [theirs(axes(train[0]), train[1], penalty) for penalty in penalties]
    accuracies = [(fit(axes(val[0])).argmax(dim=1) == val[1]).double().mean().item() for fit in fits]
    assert len(set(accuracies)) == 4  # so that there is something to choose
    assert probe.penalty == penalties[int(np.argmax(accuracies))]
    assert probe.val_top1 == pytest.approx(max(accuracies), abs=1e-9)
    both = [torch.cat(pair) for pair in zip(train, val, strict=True)]
    expected = theirs(axes(both[0]), both[1], probe.penalty)
    torch.testing.assert_close(probe(test[0]).softmax(dim=1), expected(axes(test[0])).softmax(dim=1), rtol=0, atol=1e-3)
    alone = linear_probe(*train, *val, 4, refit=False, penalties=penalties)
    torch.testing.assert_close(
        alone(test[0]).softmax(dim=1), fits[int(np.argmax(accuracies))](axes(test[0])).softmax(dim=1), rtol=0, atol=1e-3
    )


def test_the_search_ends_after_three_penalties_that_are_no_better(monkeypatch):
    tried = []

    def record(features, labels, num_classes, penalty, *rest, **more):
        tried.append(penalty)
        return fit_logistic(features, labels, num_classes, penalty, *rest, **more)

    monkeypatch.setattr(linear, "fit_logistic", record)
    features, labels = clouds(60, spread=1e-3)  # so far apart that the first penalty is perfect
    probe = linear_probe(features, labels, features, labels, 4, penalties=[0.1, 0.05, 0.02, 0.01, 0.005])
    assert probe.penalty == 0.1  # the first of equals
    assert tried == [0.1, 0.05, 0.02, 0.01, 0.1]  # the last one is the final fit


def test_features_of_single_precision_and_fewer_images_than_features():
    features, labels = clouds(20, dim=40)
    probe = linear_probe(features.float(), labels, features.float(), labels, 4)
    assert probe.val_top1 == 1
    assert probe(features.float()).dtype == torch.float64
