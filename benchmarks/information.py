"""Bounds of a mutual information that is known: docs/information.png.

    python benchmarks/information.py --output docs/information.png

x and y are standard normal in some dimensions, each pair of coordinates correlated by rho, so I = -(d / 2) log(1 - rho^2).
InfoNCE has the best critic, CLUB the true p(y|x), the variational bound the true p(y|x) as encoder and a prior that is right
or too wide: what is drawn is the bounds' own error, and no network's.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn.functional import cross_entropy

from kindred.evaluation.information import club_bound, info_nce_bound, variational_bound
from kindred.tracking.figures import save

BATCHES = (64, 512)
PRIORS = {"its codes' own": 1.0, "1.5 times as wide": 1.5}
COLOURS = ("#33658a", "#2a9d5c", "#f26419", "#6a4c93", "#d1495b")


def bounds(dim: int, rho: float, repeats: int) -> dict[str, float]:
    """Each bound by name, the mean over `repeats` batches, at I of `dim` and `rho`."""
    found: dict[str, list[Tensor]] = {}
    for seed in range(repeats):
        x, noise = torch.randn(2, max(BATCHES), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        deviation = math.sqrt(1 - rho**2)
        y = rho * x + deviation * noise
        likelihoods = Independent(Normal(rho * x[:, None], deviation), 1).log_prob(y[None])  # [N, N], log p(y_j | x_i)
        for batch in BATCHES:
            loss = cross_entropy(likelihoods[:batch, :batch].T, torch.arange(batch))
            found.setdefault(f"InfoNCE, {batch} candidates", []).append(info_nce_bound(loss, batch))
        found.setdefault("CLUB", []).append(club_bound(likelihoods))
        encoder = Independent(Normal(rho * x, deviation), 1)
        for name, width in PRIORS.items():
            prior = Independent(Normal(torch.zeros(dim).double(), width), 1)
            found.setdefault(f"variational, prior {name}", []).append(variational_bound(encoder, prior))
    return {name: float(torch.stack(values).mean()) for name, values in found.items()}


def draw(path: Path, dims: Sequence[int], informations: Sequence[float], repeats: int) -> None:
    """A panel for each number of dimensions: bounds against the true information, in nats."""
    figure = Figure(figsize=(4.4 * len(dims), 4.0), layout="constrained")
    for axes, dim in zip(figure.subplots(1, len(dims), squeeze=False)[0], dims, strict=True):
        points = [bounds(dim, math.sqrt(1 - math.exp(-2 * information / dim)), repeats) for information in informations]
        axes.plot(informations, informations, color="black", linewidth=2, label="the information itself")
        for name, colour in zip(points[0], COLOURS, strict=True):
            below = name.startswith("InfoNCE")
            values = [point[name] for point in points]
            axes.plot(informations, values, "o--" if below else "o-", color=colour, markersize=3, label=name)
        axes.set(xlabel="I(x; y), nats", title=f"{dim} dimensions", ylim=(0, 2 * max(informations)))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("bound, nats")
    figure.axes[0].legend(fontsize=7)
    save(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    draw(options.output, dims=(2, 8, 32), informations=[0.25, 0.5, *range(1, 11)], repeats=options.repeats)
