"""Label-free judges: against float64 references written from the papers, on known distributions, on several ranks."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from ranks import run_ranks

from kindred.distributed import rank, world_size
from kindred.evaluation.geometry import effective_rank
from kindred.evaluation.label_free import alpha_req, info_nce, lidar, rankme
from kindred.losses import nt_xent


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(variances, count, mean=0.0):
    """Features [N, D] whose covariance has exactly these eigenvalues, in some basis."""
    width = len(variances)
    basis = torch.linalg.qr(torch.cat([torch.ones(count, 1, dtype=torch.float64), normal(count, width)], dim=1)).Q
    turned = torch.linalg.qr(normal(width, width, seed=1)).Q
    return basis[:, 1:] * (count * variances).sqrt() @ turned + mean


def share(rows):
    """This rank's rows, by turns; the last rank lacks some that the others have."""
    return rows[rank() :: world_size()]


@pytest.mark.parametrize("shape", [(400, 12), (7, 12)])
def test_rankme_against_its_equations(shape):
    z = normal(*shape) * torch.arange(1, 13) + 0.5
    sigma = np.linalg.svd(z.numpy(), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    assert float(rankme(z)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    torch.testing.assert_close(rankme(z), effective_rank(z))


def test_rankme_of_known_distributions():
    assert float(rankme(normal(20_000, 32))) == pytest.approx(32, rel=1e-2)  # isotropic
    assert float(rankme(normal(20_000, 3) @ normal(3, 32))) < 3.01
    assert float(rankme(torch.ones(50, 8))) == pytest.approx(1, abs=1e-4)
    variances = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)  # singular values 2 : 1 : 1
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert float(rankme(with_spectrum(variances, 40))) == pytest.approx(math.exp(entropy), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_of_a_power_law(alpha):
    j = torch.arange(1, 129, dtype=torch.float64)
    features = with_spectrum(j**-alpha, 600, mean=3.0)
    assert float(alpha_req(features)) == pytest.approx(alpha, rel=1e-6)
    assert float(alpha_req(1e-3 * features.float())) == pytest.approx(alpha, rel=1e-3)
    drawn = normal(40_000, 128) * j ** (-alpha / 2)
    assert float(alpha_req(drawn)) == pytest.approx(alpha, abs=0.02)
    first_differ = with_spectrum(torch.where(j < 6, 10.0 - j, j**-alpha), 600)
    assert float(alpha_req(first_differ)) == pytest.approx(alpha, rel=1e-6)


def test_alpha_req_against_weighted_least_squares():
    features = normal(300, 40) @ normal(40, 40, seed=3) + 2
    values = np.linalg.eigvalsh(np.cov(features.numpy(), rowvar=False))[::-1]
    j = np.arange(6, 41)
    slope, _ = np.polyfit(np.log(j), np.log(values[5:]), 1, w=j**-0.5)  # polyfit squares its weights
    assert float(alpha_req(features)) == pytest.approx(-slope, rel=1e-9)


def test_alpha_req_leaves_out_what_rounding_hides():
    j = torch.arange(1, 65, dtype=torch.float64)
    features = torch.cat([with_spectrum(1 / j, 300), torch.zeros(300, 64, dtype=torch.float64)], dim=1)
    assert float(alpha_req(features)) == pytest.approx(1, rel=1e-6)  # units that are never active
    assert alpha_req(normal(300, 6)).isnan()
    assert alpha_req(normal(6, 300)).isnan()
    assert alpha_req(torch.ones(50, 40)).isnan()


def reference_lidar(e, delta=0.0):
    """Equations 1 to 4 of the paper, with sample covariances, image by image."""
    views, images, width = e.shape
    mu = [e[:, i].mean(dim=0) for i in range(images)]
    between = sum(torch.outer(m - sum(mu) / images, m - sum(mu) / images) for m in mu) / (images - 1)
    within = sum(torch.outer(e[v, i] - mu[i], e[v, i] - mu[i]) for i in range(images) for v in range(views))
    within = within / (images * (views - 1))
    within = within + delta * within.trace() / width * torch.eye(width)
    values, vectors = scipy.linalg.eigh(within.numpy())
    root = vectors * values**-0.5 @ vectors.T
    lam = np.linalg.svd(root @ between.numpy() @ root, compute_uv=False)[: images - 1]
    p = lam / lam.sum() + 1e-7
    return math.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("shape", [(4, 60, 9), (2, 60, 9), (8, 5, 9)])
def test_lidar_against_its_equations(shape):
    scales = torch.arange(1, shape[2] + 1) ** 2.0
    e = normal(*shape[1:]) * scales + normal(*shape, seed=1) @ normal(shape[2], shape[2], seed=2) + 5
    assert float(lidar(e)) == pytest.approx(reference_lidar(e, 1e-4), rel=1e-9)
    assert float(lidar(e, delta=1e-12)) == pytest.approx(reference_lidar(e), rel=1e-6)
    assert float(lidar(1e-6 * e.float())) == pytest.approx(reference_lidar(e, 1e-4), rel=1e-4)


def test_lidar_of_known_distributions():
    # All directions alike, and seen through any linear map: a discriminant knows no units.
    isotropic = 10 * normal(8000, 16) + normal(3, 8000, 16, seed=1)
    mixed = isotropic @ (normal(16, 16, seed=2) * torch.logspace(0, 2, 16))
    assert float(lidar(isotropic)) == pytest.approx(16, rel=1e-2)
    assert float(lidar(mixed, delta=1e-12)) == pytest.approx(float(lidar(isotropic, delta=1e-12)), rel=1e-6)
    # Images differ in 4 directions, views of one image in all: the others count for RankMe, and hardly for LiDAR.
    images = torch.zeros(8000, 16, dtype=torch.float64)
    images[:, :4] = 100 * normal(8000, 4)
    noisy = images + 30 * normal(4, 8000, 16, seed=1)
    assert float(rankme(noisy[0])) > 12
    assert float(lidar(noisy)) < 6
    assert float(lidar(images + normal(4, 8000, 16, seed=1))) == pytest.approx(4, rel=1e-2)


def test_lidar_of_a_collapsed_representation():
    """All that is left is rounding, which has no rank."""
    assert bool(lidar(torch.ones(4, 50, 8)).isfinite())
    assert bool(lidar(torch.ones(4, 50, 8) * normal(50, 1)).isfinite())  # no view differs from another
    assert bool(lidar(torch.zeros(4, 50, 8)).isfinite())


@pytest.mark.parametrize("views", [2, 3])
def test_info_nce_against_loops_and_the_loss(views):
    embeddings = normal(views, 7, 5) + 0.3
    unit = F.normalize(embeddings, dim=-1).flatten(0, 1)
    losses = []
    for a in range(len(unit)):
        scores = {b: float(unit[a] @ unit[b]) / 0.3 for b in range(len(unit)) if b != a}
        partition = math.log(sum(map(math.exp, scores.values())))
        losses += [partition - score for b, score in scores.items() if b % 7 == a % 7]
    expected = sum(losses) / len(losses)
    for chunk_size in (3, 1024):
        assert float(info_nce(embeddings, 0.3, chunk_size)) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(info_nce(embeddings, 0.3), nt_xent(embeddings, 0.3))
    torch.testing.assert_close(info_nce(embeddings.float(), 0.3), nt_xent(embeddings, 0.3), rtol=1e-5, atol=0)


def test_info_nce_of_known_embeddings():
    assert float(info_nce(torch.ones(2, 50, 8), 0.1)) == pytest.approx(
        math.log(99)
    )  # collapsed: a guess among the others
    corners = torch.eye(16).repeat(2, 1, 1)  # views meet, images are orthogonal
    assert float(info_nce(corners, 0.5)) == pytest.approx(math.log(1 + 30 * math.exp(-2)))


FEATURES = normal(301, 24) * torch.arange(1, 25) + 1  # neither 2 nor 3 divides it


def on_ranks():
    return rankme(share(FEATURES)), alpha_req(share(FEATURES))


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_find_what_one_does(ranks):
    for found in run_ranks(on_ranks, ranks):
        torch.testing.assert_close(list(found), [rankme(FEATURES), alpha_req(FEATURES)], rtol=1e-12, atol=0)
