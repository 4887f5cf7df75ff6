"""How the linear classifier's penalty is chosen, and the bank's probe on one process and several."""

import math

import pytest
import torch
from clouds import clouds, theirs
from ranks import run_ranks
from torch.nn.functional import cross_entropy

from kindred.distributed import rank, world_size
from kindred.evaluation import linear, logistic
from kindred.evaluation.linear import PENALTIES, LinearProbe, hold_out, linear_probe, probe_bank
from kindred.evaluation.logistic import Axes, Linear, fit_logistic, mean_gradient


def test_the_penalty_is_the_best_on_val_and_the_last_fit_has_train_and_val():
    train, val, test = clouds(24, dim=12), clouds(400, dim=12, seed=1), clouds(400, dim=12, seed=2)
    penalties = [10.0, 1.0, 0.1, 0.01]
    probe = linear_probe(*train, *val, 4, penalties=penalties)
    axes = Axes.of(train[0])
    fits = [theirs(axes(train[0]), train[1], penalty) for penalty in penalties]
    accuracies = [(fit(axes(val[0])).argmax(dim=1) == val[1]).double().mean().item() for fit in fits]
    losses = [float(cross_entropy(fit(axes(val[0])), val[1])) for fit in fits]
    assert len(set(accuracies)) == 4  # so that there is something to choose
    chosen = losses.index(min(losses))
    assert chosen != accuracies.index(max(accuracies))  # which is more often chance
    assert probe.penalty == penalties[chosen]
    assert probe.val_top1 == pytest.approx(accuracies[chosen], abs=1e-9)
    both = [torch.cat(pair) for pair in zip(train, val, strict=True)]
    expected = theirs(axes(both[0]), both[1], probe.penalty)
    torch.testing.assert_close(probe(test[0]).softmax(dim=1), expected(axes(test[0])).softmax(dim=1), rtol=0, atol=1e-3)
    alone = linear_probe(*train, *val, 4, refit=False, penalties=penalties)
    torch.testing.assert_close(
        alone(test[0]).softmax(dim=1), fits[chosen](axes(test[0])).softmax(dim=1), rtol=0, atol=1e-3
    )


def tried(monkeypatch, spread, **settings):
    """The penalties of the fits, in their order, and the probe; clouds spread so are told apart more easily or less."""
    numbers = []

    def note(features, labels, num_classes, penalty, *rest, **more):
        numbers.append(penalty)
        return fit_logistic(features, labels, num_classes, penalty, *rest, **more)

    monkeypatch.setattr(linear, "fit_logistic", note)
    train, val = clouds(60, spread=spread), clouds(200, spread=spread, seed=1)
    scale = float(Axes.of(train[0]).scale ** 2)
    probe = linear_probe(*train, *val, 4, penalties=[1.0, 0.3, 0.1, 0.03, 0.01], **settings)
    return [round(number / scale, 6) for number in numbers], probe


def test_the_search_goes_on_while_it_gets_better_and_no_further(monkeypatch):
    easy, probe = tried(monkeypatch, spread=0.01)
    assert easy == [0.1, 0.03, 0.01, 0.01]  # to the weakest; the last one is the final fit
    noise, last = tried(monkeypatch, spread=30.0)
    assert noise == [0.1, 0.03, 0.3, 1.0, 1.0]  # weaker is no better, stronger is
    between, _ = tried(monkeypatch, spread=1.0)
    assert between == [0.1, 0.03, 0.01, 0.01]
    assert (probe.penalty, last.penalty) == (0.01, 1.0)
    again, _ = tried(monkeypatch, spread=30.0, start=last)
    assert again == [1.0, 0.3, 1.0]  # one on either side, if there is one


def test_a_start_saves_passes_unless_it_is_worse_than_none(monkeypatch):
    passes = []

    def note(*arguments):
        passes.append(arguments)
        return mean_gradient(*arguments)

    monkeypatch.setattr(logistic, "mean_gradient", note)
    train, val = clouds(200), clouds(200, seed=1)

    def fitted(start=None):
        passes.clear()
        return linear_probe(*train, *val, 4, refit=False, tolerance=1e-3, start=start), len(passes)

    first, cold = fitted()
    again, warm = fitted(first)
    assert warm < 0.8 * cold
    assert again.penalty == first.penalty
    wrong, nothing = (first._replace(classifier=Linear(*(x * part for part in first.classifier))) for x in (-10, 0))
    assert fitted(wrong)[1] == fitted(nothing)[1] > warm


def test_features_of_single_precision_and_fewer_images_than_features():
    features, labels = clouds(20, dim=40)
    probe = linear_probe(features.float(), labels, features.float(), labels, 4)
    assert probe.val_top1 == 1
    assert probe(features.float()).dtype == torch.float64


def test_what_is_held_out_is_the_last_tenth_of_each_class():
    labels = torch.tensor([0] * 20 + [-1] * 30 + [1] + [2] * 14 + [0] * 5 + [4] * 5)
    held_out = hold_out(labels)
    assert held_out.nonzero().flatten().tolist() == [64, 67, 68, 69, 74]
    assert not hold_out(torch.tensor([3, 1, -1, 1])).any()
    assert hold_out(torch.zeros(0, dtype=torch.long)).shape == (0,)


def bank(count=700, dim=24):
    """Features float32, some of unlabelled examples that are far away; class 5 has one example, class 3 none."""
    features, labels = clouds(count, dim=dim, spread=2.0)
    labels[labels == 3] = 0
    labels[::9] = -1
    features[::9] += 1000
    labels[4] = 5
    return features.float(), labels


def probe_of_share(shares, start=None):
    features, labels = bank()
    rows = shares[rank()] if world_size() > 1 else torch.arange(len(labels))
    return tuple(probe_bank(features[rows], labels[rows], rows, 6, start))


def test_the_probe_of_a_dealt_bank_is_that_of_one_process_to_the_bit():
    everything = torch.arange(700)
    few = [torch.arange(0), everything[:3], everything[3:]]
    first = LinearProbe(*probe_of_share(None))
    again = LinearProbe(*probe_of_share(None, first))
    assert not torch.equal(first.classifier.weight, again.classifier.weight)  # it began elsewhere
    for shares in ([everything[r::2] for r in range(2)], [everything[r::3] for r in range(3)], few):
        for start, expected in ((None, first), (first, again)):
            for found in run_ranks(probe_of_share, len(shares), shares, start):
                found = LinearProbe(*found)
                assert (found.penalty, found.val_top1) == (expected.penalty, expected.val_top1)
                assert torch.equal(found.classifier.weight, expected.classifier.weight)
                assert torch.equal(found.classifier.bias, expected.classifier.bias)


def test_the_probe_of_a_bank_is_scikit_learns():
    features, labels = bank()
    probe, known = probe_bank(features, labels, torch.arange(700), 6), labels >= 0
    strength = probe.penalty * float(Axes.of(features[known & ~hold_out(labels)]).scale ** 2)
    classes, dense = labels[known].unique(return_inverse=True)  # scikit-learn leaves absent classes out
    expected = theirs(features[known].double(), dense, strength)
    assert probe.penalty not in (PENALTIES[0], PENALTIES[-1])
    found = probe(features[known]).softmax(dim=1)[:, classes]
    difference = (found - expected(features[known].double()).softmax(dim=1)).abs()
    assert difference.mean() < 0.005
    assert (found.argmax(dim=1) == expected(features[known].double()).argmax(dim=1)).double().mean() > 0.98


def test_unlabelled_examples_count_for_nothing():
    features, labels = bank()
    known = labels >= 0
    with_strangers = probe_bank(features, labels, torch.arange(700), 6)
    without = probe_bank(features[known], labels[known], torch.arange(int(known.sum())), 6)
    torch.testing.assert_close(with_strangers.classifier.weight, without.classifier.weight)
    with pytest.raises(ValueError, match="no labelled example"):
        probe_bank(features, torch.full_like(labels, -1), torch.arange(700), 6)


def test_a_bank_of_fewer_examples_than_classes_has_a_probe():
    features, labels = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 2, 5])
    probe = probe_bank(features, labels, torch.arange(3), 10)
    assert math.isnan(probe.val_top1)
    assert probe.penalty == PENALTIES[len(PENALTIES) // 2]
    assert probe(features).argmax(dim=1).tolist() == [7, 2, 5]


def test_a_large_bank_takes_a_fixed_number_of_iterations(monkeypatch, recwarn):
    asked = []

    def note(*arguments, **more):
        asked.append(arguments[6])
        return fit_logistic(*arguments, **more)

    monkeypatch.setattr(linear, "fit_logistic", note)
    features, labels = bank()
    probe_bank(features, labels, torch.arange(700), 6)
    monkeypatch.setattr(linear, "LARGE", 700 * 24 * 6 - 1)
    monkeypatch.setattr(linear, "LARGE_ITERATIONS", 2)
    probe_bank(features, labels, torch.arange(700), 6)
    assert set(asked) == {linear.ITERATIONS, 2}
    assert not [warning for warning in recwarn if "converged" in str(warning.message)]
