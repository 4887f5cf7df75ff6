"""What a linear classifier can read from frozen features, trained to convergence.

The protocol is that of Kornblith et al. 2019 (arXiv:1805.08974, section 3.1) and SimCLR (Chen et al. 2020, appendix
B.8.1): multinomial logistic regression with an l2 penalty, fitted by L-BFGS to all features at once, without
augmentation; the penalty is the one that is best on val, and the classifier is then fitted again to train and val
together. They try 45 penalties from 1e-6 to 1e5; here it is two per decade from 10 down to 1e-6, of features of mean
square 1, from the strongest on, and no further after three in a row that are no better.

Centring the features, dividing them all by one number and turning their axes changes nothing about the problem (the
bias is not penalised, and a rotation keeps |W|) but its condition, and what the penalty's numbers mean.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(2, -13, -1))
PATIENCE = 3  # penalties in a row that are no better on val
CHOOSING = (
    1e-3  # tolerance of the fits that are only compared; the last one is fitted in float64, to `fit_logistic`'s own
)


class Linear(NamedTuple):
    """A linear classifier, float64: features [N, F] -> scores [N, C]."""

    weight: Tensor  # [C, F]
    bias: Tensor  # [C]

    def __call__(self, features: Tensor) -> Tensor:
        return features.to(self.weight.dtype) @ self.weight.T + self.bias


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    start: Linear | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
) -> Linear:
    """The minimum of mean cross-entropy + penalty / 2 * |W|^2; the bias is not penalised.

    L-BFGS works on variables in which the Hessian at W = 0 would be the identity if the features were uncorrelated and
    centred; they need not be, but see `Axes`. Matrix products are in the features' precision, sums in float64.

    Args:
        features: [N, F].
        labels: [N] int64 in [0, C).
        num_classes: C.
        penalty: lambda > 0; scikit-learn's C is 1 / (N * penalty).
        start: where to begin; zero by default.
        tolerance: of the gradient's largest entry, in those variables.
        max_iterations: a warning says that the tolerance was not reached.

    Raises:
        ValueError: penalty <= 0.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be greater than 0, got {penalty}")
    curvature = features.square().mean(dim=0).double() / num_classes + penalty
    scale, bias_scale = curvature.sqrt(), math.sqrt(1 / num_classes)
    if start is None:
        start = Linear(scale.new_zeros(num_classes, len(scale)), scale.new_zeros(num_classes))
    weight = (start.weight * scale).requires_grad_()
    bias = (start.bias * bias_scale).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        actual = weight / scale
        scores = (features @ actual.to(features.dtype).T).double() + bias / bias_scale
        loss = cross_entropy(scores, labels) + penalty / 2 * actual.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
        objective()
    gradient = max(float(each.grad.abs().max()) for each in (weight, bias) if each.grad is not None)
    if not gradient <= tolerance:
        warnings.warn(
            f"the linear classifier has not converged: with penalty {penalty:.1e} its gradient is {gradient:.1e} after "
            f"at most {max_iterations} iterations, not {tolerance:.1e}",
            stacklevel=2,
        )
    return Linear((weight / scale).detach(), (bias / bias_scale).detach())


class Axes(NamedTuple):
    """Principal axes of a set of features: in them features are centred, uncorrelated and of mean square 1."""

    mean: Tensor  # [F]
    rotation: Tensor  # [F, F], orthogonal but for one factor

    @classmethod
    def of(cls, features: Tensor) -> "Axes":
        """Axes of features [N, F]."""
        mean = features.mean(dim=0)
        centred = features - mean
        scale = centred.square().mean().sqrt().clamp(min=torch.finfo(features.dtype).tiny)
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(features))
        return cls(mean, vectors / scale)

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) @ self.rotation


class LinearProbe(NamedTuple):
    """A linear classifier of frozen features and how it was chosen."""

    axes: Axes
    classifier: Linear
    penalty: float
    val_top1: float  # with that penalty, fitted to train alone

    def __call__(self, features: Tensor) -> Tensor:
        """Scores [N, C] of features [N, F]."""
        return self.classifier(self.axes(features))


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    num_classes: int,
    refit: bool = True,
    penalties: Sequence[float] = PENALTIES,
) -> LinearProbe:
    """Fit to train with each penalty, choose the one that is best on val, and fit once more, to train and val.

    Args:
        train, val: features [N, F], [M, F].
        train_labels, val_labels: [N], [M] int64 in [0, C).
        num_classes: C.
        refit: False leaves val out of the last fit, where its labels are not to be used for more than choosing.
        penalties: tried in this order, each fit starting from the last one; the first of equals is chosen.
    """
    axes = Axes.of(train)
    turned, turned_val = axes(train), axes(val)
    best, best_top1, best_penalty, worse = None, -1.0, penalties[0], 0
    classifier = None
    for penalty in penalties:
        classifier = fit_logistic(turned, train_labels, num_classes, penalty, classifier, tolerance=CHOOSING)
        top1 = float((classifier(turned_val).argmax(dim=1) == val_labels).double().mean())
        if top1 > best_top1:
            best, best_top1, best_penalty, worse = classifier, top1, penalty, 0
        elif (worse := worse + 1) == PATIENCE:
            break
    if refit:
        turned, train_labels = torch.cat([turned, turned_val]), torch.cat([train_labels, val_labels])
    classifier = fit_logistic(turned.double(), train_labels, num_classes, best_penalty, best)
    return LinearProbe(axes, classifier, best_penalty, best_top1)
