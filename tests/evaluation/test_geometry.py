"""Geometry of embeddings against explicit loops, and on several ranks."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from scipy.special import gamma, iv

from kindred import distributed
from kindred.evaluation.geometry import alignment, effective_rank, pair_similarity, tolerance, uniformity

EMBEDDINGS = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3


def loop(embeddings):
    views, batch = embeddings.shape[:2]
    pairs = {True: [], False: []}
    for i in range(batch):
        for j in range(batch):
            for u in range(views):
                for v in range(views):
                    if (u, i) != (v, j):
                        pairs[i == j].append(F.cosine_similarity(embeddings[u, i], embeddings[v, j], dim=0))
    return [torch.stack(pairs[key]).mean() for key in (True, False)]


@pytest.mark.parametrize("views", [2, 3])
def test_pair_similarity_against_loops(views):
    embeddings = EMBEDDINGS[:views].clone().requires_grad_()
    actual = pair_similarity(embeddings)
    torch.testing.assert_close(list(actual), loop(embeddings.detach()))
    assert not any(value.requires_grad for value in actual)
    torch.testing.assert_close(
        [value.double() for value in pair_similarity(EMBEDDINGS.float())], loop(EMBEDDINGS), rtol=0, atol=1e-6
    )


def test_pairs_that_do_not_exist():
    positive, negative = pair_similarity(EMBEDDINGS[:1])
    assert positive.isnan()
    torch.testing.assert_close(negative, pair_similarity(EMBEDDINGS[:1].repeat(2, 1, 1))[1])
    positive, negative = pair_similarity(EMBEDDINGS[:, :1])
    assert positive.isfinite()
    assert negative.isnan()


def test_half_precision_and_collapse():
    ones = torch.ones(2, 300, 64, dtype=torch.bfloat16)
    torch.testing.assert_close(list(pair_similarity(ones)), [torch.ones(()), torch.ones(())])


def share():
    batch = 6 // distributed.world_size()
    return pair_similarity(EMBEDDINGS[:, distributed.rank() * batch :][:, :batch])


def test_several_ranks():
    expected = list(pair_similarity(EMBEDDINGS))
    for world_size in (2, 3):
        for actual in run_ranks(share, world_size):
            torch.testing.assert_close(list(actual), expected, rtol=1e-12, atol=1e-12)


def on_sphere(count, dim, seed=0):
    return F.normalize(
        torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def test_alignment_against_loops():
    unit = F.normalize(EMBEDDINGS, dim=-1)
    pairs = [(u, v, i) for i in range(6) for u in range(3) for v in range(3) if u != v]
    expected = torch.stack([(unit[u, i] - unit[v, i]).square().sum() for u, v, i in pairs]).mean()
    torch.testing.assert_close(alignment(EMBEDDINGS), expected)
    torch.testing.assert_close(alignment(7 * EMBEDDINGS[:1].repeat(2, 1, 1)), torch.zeros((), dtype=torch.float64))
    assert alignment(EMBEDDINGS[:1]).isnan()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_uniformity_against_loops(count, dim, chunk_size, seed):
    embeddings = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit = F.normalize(embeddings, dim=1)
    potentials = [(-2 * (unit[i] - unit[j]).square().sum()).exp() for i in range(count) for j in range(count) if i != j]
    torch.testing.assert_close(uniformity(embeddings, chunk_size), torch.stack(potentials).mean().log())


@pytest.mark.parametrize("dim", [2, 3, 128])
def test_uniformity_of_the_uniform_distribution(dim):
    """E exp(4 x.y - 4) over the sphere is a Bessel function's value."""
    order = dim / 2 - 1
    expected = math.log(gamma(dim / 2) * (2 / 4) ** order * iv(order, 4)) - 4
    assert float(uniformity(on_sphere(3000, dim).float())) == pytest.approx(expected, abs=0.02)


def test_a_collapsed_representation():
    point = torch.ones(50, 8)
    assert float(uniformity(point)) == pytest.approx(0, abs=1e-6)
    assert float(tolerance(point, torch.arange(50) % 3)) == pytest.approx(1)
    assert float(effective_rank(point)) == pytest.approx(1, abs=1e-4)
    assert float(effective_rank(torch.zeros(50, 8))) == pytest.approx(1, abs=1e-4)


def test_tolerance_against_loops():
    embeddings, labels = on_sphere(20, 5), torch.arange(20) % 4
    labels[[3, 8]] = -1
    labels[19] = 7  # a class of one image has no pair
    pairs = [(i, j) for i in range(20) for j in range(20) if i != j and labels[i] == labels[j] >= 0]
    expected = torch.stack([embeddings[i] @ embeddings[j] for i, j in pairs]).mean()
    torch.testing.assert_close(tolerance(3 * embeddings, labels), expected)
    assert tolerance(embeddings, torch.arange(20)).isnan()
    assert tolerance(embeddings, torch.full((20,), -1)).isnan()


@pytest.mark.parametrize("shape", [(40, 12), (7, 12)])
def test_effective_rank_against_singular_values(shape):
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(
        1, 13
    )
    p = torch.linalg.svdvals(embeddings)
    p = p / p.sum() + 1e-7
    torch.testing.assert_close(effective_rank(embeddings), (-(p * p.log()).sum()).exp(), rtol=1e-4, atol=0)
    torch.testing.assert_close(effective_rank(1e-3 * embeddings), effective_rank(embeddings), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("samples", "dim"), [(8, 8), (8, 4096), (4096, 8)])
def test_effective_rank_counts_as_many_values_as_there_are(samples, dim):
    # Equal singular values, min(N, D) of them: equation 2 with p = 1/8 + eps, whatever the longer side.
    basis = torch.linalg.qr(torch.randn(max(samples, dim), 8, generator=torch.Generator().manual_seed(2)).double()).Q
    p = 1 / 8 + 1e-7
    expected = math.exp(-8 * p * math.log(p))
    assert float(effective_rank(basis if dim == 8 else basis.T)) == pytest.approx(expected, rel=1e-9)


def test_effective_rank_of_known_spectra():
    basis = torch.linalg.qr(torch.randn(64, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    assert float(effective_rank(basis)) == pytest.approx(16, rel=1e-4)  # equal singular values
    assert float(effective_rank(basis[:, :3] @ basis[:3, :3])) <= 3.001


def test_half_precision_gives_float32_values():
    embeddings = on_sphere(64, 16)
    labels = torch.arange(64) % 4
    half = embeddings.to(torch.bfloat16)
    for function in (uniformity, effective_rank, lambda x: tolerance(x, labels)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = function(half)
        torch.testing.assert_close(actual.double(), function(half.double()).double(), rtol=1e-5, atol=1e-6)


def aligned_share():
    batch = 6 // distributed.world_size()
    return alignment(EMBEDDINGS[:, distributed.rank() * batch :][:, :batch])


def test_alignment_on_several_ranks():
    for actual in run_ranks(aligned_share, 3):
        torch.testing.assert_close(actual, alignment(EMBEDDINGS), rtol=1e-12, atol=1e-12)
