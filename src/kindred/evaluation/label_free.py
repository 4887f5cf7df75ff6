"""Judges of a representation that need no label. Which of them to trust: docs/label_free.md.

RankMe: Garrido et al., ICML 2023 (arXiv:2210.02885). alpha-ReQ: Agrawal et al., NeurIPS 2022. LiDAR: Thilak et al., ICLR
2024 (arXiv:2312.04000). InfoNCE: van den Oord et al. 2018 (arXiv:1807.03748). Alignment and uniformity stand in
`kindred.evaluation.geometry`, with the effective rank that RankMe and LiDAR are.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kindred.distributed import sum_over_ranks
from kindred.evaluation.geometry import entropy_rank
from kindred.sphere import unit

EPS = 1e-7  # RankMe's and LiDAR's, added to each share
ROUNDING = 1e-12  # of the largest variance: what is less is what float32 rounds


@torch.no_grad()
def rankme(embeddings: Tensor) -> Tensor:
    """RankMe, `geometry.effective_rank` of what is dealt to the ranks: between 1 and min(N, D).

    Args:
        embeddings: [n, D], this rank's share of N; neither centred nor normalised, as in the paper.

    Returns:
        A float64 scalar, the same on every rank.
    """
    return entropy_rank(_spectrum(embeddings, centred=False).sqrt(), EPS)


@torch.no_grad()
def alpha_req(embeddings: Tensor, first: int = 6, last: int = 100) -> Tensor:
    """alpha of the power law j^-alpha that the eigenvalues of the embeddings' covariance follow. Near 1 is said to be best.

    A line fitted to log eigenvalue against log j by least squares weighted by 1 / j, as the authors do (after Stringer et
    al. 2019), from the 6th to the 100th eigenvalue: the first few belong to no power law.

    Args:
        embeddings: [n, D], this rank's share of N.
        first, last: of the eigenvalues that are fitted, counted from 1; those that rounding hides are left out.

    Returns:
        A float64 scalar, the same on every rank; NaN where fewer than two eigenvalues are left.
    """
    values = _spectrum(embeddings, centred=True)
    values = values[: int((values > ROUNDING * values.max()).sum())][first - 1 : last]
    x = torch.arange(first, first + len(values), dtype=values.dtype, device=values.device)
    x, weights = x.log(), 1 / x
    x = x - (weights * x).sum() / weights.sum()
    return -(weights * x * values.log()).sum() / (weights * x.square()).sum()  # 0 / 0 of one or none


@torch.no_grad()
def lidar(embeddings: Tensor, delta: float = 1e-4) -> Tensor:
    """LiDAR: the effective rank of the linear discriminant analysis that tells images apart by their views.

    Of S_w^-1/2 S_b S_w^-1/2, S_b the covariance of the images' means and S_w that of the views about them: a direction
    counts as far as it differs more between images than between views of one. Between 1 and min(B - 1, D). Directions in
    which images do not differ keep 1 / V, so compare at the same V, and with B above D.

    Args:
        embeddings: [V, B, D], V > 1 views of each of B > 1 images.
        delta: what the paper adds to the diagonal of S_w, here as a share of its mean: to be of any scale.

    Returns:
        A float64 scalar.
    """
    views, images, width = embeddings.shape
    x = embeddings.double()
    means = x.mean(dim=0)
    between, within = means - means.mean(dim=0), (x - means).flatten(0, 1)
    within = within.T @ within / (images * (views - 1))
    scale = within.diagonal().mean().clamp(min=ROUNDING * means.square().mean()).clamp(min=1e-300)
    factor = torch.linalg.cholesky(within / scale + delta * torch.eye(width, dtype=x.dtype, device=x.device))
    # Of L^-1 S_b L^-T for any factor L of S_w the eigenvalues are the same.
    white = torch.linalg.solve_triangular(factor, between.T, upper=False) / (scale * (images - 1)).sqrt()
    return entropy_rank(_eigenvalues(white @ white.T, min(images - 1, width)), EPS)


@torch.no_grad()
def info_nce(embeddings: Tensor, temperature: float, chunk_size: int = 1024) -> Tensor:
    """InfoNCE: how badly a view tells its image's other views from those of all other images, in nats.

    The loss of SimCLR (`kindred.losses.nt_xent`) on one process, with a temperature that is the same for all runs that
    are to be compared, and as many images.

    Args:
        embeddings: [V, B, D], V > 1 views of each of B images.
        temperature: tau > 0.
        chunk_size: anchors whose similarities are in memory at once; the result does not depend on it.

    Returns:
        A float64 scalar.
    """
    views, images, _ = embeddings.shape
    points = unit(embeddings).flatten(0, 1)
    total = torch.zeros((), dtype=torch.float64, device=points.device)
    for start in range(0, len(points), chunk_size):
        anchors = torch.arange(start, min(start + chunk_size, len(points)), device=points.device)
        logits = points[anchors] @ points.T / temperature
        logits.diagonal(start).fill_(-torch.inf)  # a view is none of its own candidates
        for shift in range(1, views):
            total += cross_entropy(logits, (anchors + shift * images) % len(points), reduction="sum").double()
    return total / (len(points) * (views - 1))


def _spectrum(embeddings: Tensor, centred: bool) -> Tensor:
    """Eigenvalues of the second moments, or the covariance, of what all ranks have; float64, the largest first.

    As many as there can be, and no more: each that rounding adds would count by eps.
    """
    x = embeddings.double()
    count = int(sum_over_ranks(torch.tensor(len(x), device=x.device)))
    if centred:
        x = x - sum_over_ranks(x.sum(dim=0)) / count
    return _eigenvalues(sum_over_ranks(x.T @ x) / count, min(count - centred, x.shape[1]))


def _eigenvalues(matrix: Tensor, count: int) -> Tensor:
    """The `count` largest, the largest first, none below 0."""
    return torch.linalg.eigvalsh(matrix).flip(0)[:count].clamp(min=0)
