"""Made-up features of overlapping classes, and scikit-learn's classifier of them."""

import torch
from sklearn.linear_model import LogisticRegression

from kindred.evaluation.logistic import Linear


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
