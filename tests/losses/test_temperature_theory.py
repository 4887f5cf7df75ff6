"""What the temperature does to the contrastive loss: the statements of Wang & Liu 2021 (arXiv:2012.09740), in float64."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kindred.evaluation.hardness import penalty_entropy, relative_penalties
from kindred.losses import group_contrast, simple

many = settings(max_examples=50, deadline=None)
similarities_of = st.lists(st.floats(-0.99, 0.99), min_size=3, max_size=20, unique=True)
temperatures = st.floats(0.02, 5.0)


def of_similarities(loss, similarities, temperature):
    """`loss` as a function of the cosines [1 + K] of one anchor with its positive, the first, and its negatives."""
    # Candidates s e_0 + sqrt(1 - s^2) e_j are unit vectors with those cosines to the anchor e_0.
    axes = torch.eye(1 + len(similarities), dtype=torch.float64)
    candidates = similarities[:, None] * axes[0] + (1 - similarities**2).sqrt()[:, None] * axes[1:]
    groups = torch.arange(len(similarities))
    return loss(axes[:1], candidates, groups[:1], groups, None, temperature)


def cosines(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def slopes(loss, similarities, temperature):
    return torch.autograd.grad(of_similarities(loss, similarities, temperature), similarities)[0]


@many
@given(similarities_of, temperatures)
def test_the_positive_is_pulled_as_hard_as_all_negatives_are_pushed(values, temperature):
    # Equations 4 and 5.
    slope = slopes(group_contrast, cosines(values), temperature)
    assert slope[0] <= 0
    assert (slope[1:] >= 0).all()
    assert slope[1:].sum().item() == pytest.approx(-slope[0].item(), rel=1e-9, abs=1e-12)


@many
@given(similarities_of, temperatures)
def test_relative_penalties_are_a_boltzmann_distribution(values, temperature):
    # Equation 6: each negative's share of the push is proportional to exp(s / tau), whatever the positive.
    similarities = cosines(values)
    slope = slopes(group_contrast, similarities, temperature)
    boltzmann = [math.exp((s - max(values[1:])) / temperature) for s in values[1:]]
    boltzmann = torch.tensor(boltzmann).double() / sum(boltzmann)
    torch.testing.assert_close(relative_penalties(similarities[1:].detach(), temperature), boltzmann)
    if slope[0].abs() > 1e-6:
        torch.testing.assert_close(slope[1:] / -slope[0], boltzmann, rtol=1e-6, atol=1e-8)


@many
@given(similarities_of)
def test_the_entropy_of_the_penalties_grows_strictly_with_tau(values):
    anchor, groups = torch.eye(len(values) + 1, dtype=torch.float64)[:1], torch.arange(len(values))
    similarities = cosines([value / 100 + position / 50 for position, value in enumerate(values)]).detach()
    axes = torch.eye(1 + len(values), dtype=torch.float64)
    candidates = similarities[:, None] * axes[0] + (1 - similarities**2).sqrt()[:, None] * axes[1:]
    entropies = [
        penalty_entropy(anchor, candidates, groups[:1], groups, tau).item() for tau in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    ]
    assert all(cold < warm for cold, warm in pairwise(entropies))
    assert entropies[0] >= 0
    assert entropies[-1] <= math.log(len(values) - 1)
    everyone = penalty_entropy(anchor, candidates, groups[:1], groups, 1e3).item()
    assert everyone == pytest.approx(math.log(len(values) - 1), rel=1e-5)


def test_the_entropy_against_loops_and_in_half_precision():
    generator = torch.Generator().manual_seed(0)
    z, groups = torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 0, 2, 1, 3])
    expected = []
    for i in range(6):
        weights = [math.exp(F.cosine_similarity(z[i], z[j], dim=0) / 0.2) for j in range(6) if groups[i] != groups[j]]
        shares = [weight / sum(weights) for weight in weights]
        expected.append(-sum(share * math.log(share) for share in shares))
    torch.testing.assert_close(penalty_entropy(z, z, groups, groups, 0.2), torch.tensor(expected).double())
    half = z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            penalty_entropy(half, half, groups, groups, 0.2),
            penalty_entropy(half.float(), half.float(), groups, groups, 0.2),
        )


@many
@given(similarities_of)
def test_at_small_tau_only_the_nearest_negative_counts(values):
    # tau -> 0+: the loss tends to max(s_max - s_pos, 0) / tau. The log-sum-exp of n terms is above their maximum by log(n)
    # at most, so the two differ by no more than that at any tau.
    similarities, limit = cosines(values).detach(), max(max(values[1:]) - values[0], 0)
    for tau in (1.0, 0.1, 0.01, 0.001):
        loss = of_similarities(group_contrast, similarities, tau).item()
        assert -1e-9 <= loss - limit / tau <= math.log(len(values)) + 1e-9
    assert tau * loss == pytest.approx(limit, abs=0.001 * math.log(20))


@many
@given(similarities_of)
def test_at_large_tau_the_gradient_is_that_of_the_simple_loss(values):
    # tau -> infinity: all negatives weigh the same (section 3.2 and eq. 2).
    similarities = cosines(values)
    direction = slopes(simple, similarities, 1.0)
    gaps = []
    for tau in (1.0, 10.0, 100.0):
        slope = slopes(group_contrast, similarities, tau)
        gaps.append((F.normalize(slope, dim=0) - F.normalize(direction, dim=0)).norm().item())
    assert gaps[-1] < 0.02
    assert gaps[1] <= 0.2 * gaps[0] + 1e-6
    assert gaps[2] <= 0.2 * gaps[1] + 1e-6
    # And so is its size, times tau, but for the positive's own share in the denominator.
    share = 1 - 1 / len(values)
    torch.testing.assert_close(slopes(group_contrast, similarities, 1e3) * 1e3 / share, direction, rtol=0.01, atol=1e-6)
