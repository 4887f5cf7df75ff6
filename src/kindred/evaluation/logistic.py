"""Multinomial logistic regression with an l2 penalty, fitted by L-BFGS to all examples at once, by one process or by many.

Examples may be dealt to the ranks in any way, and W ranks find what one finds, to the bit. Sums over the examples are added
up in float64, over the ranks too, and so are the same but for the last digits; L-BFGS makes more of these at each step:
after a hundred, two orders of summation had weights that differed by 4%. So it is given them rounded, finely in comparison
to its tolerance and coarsely to float64: but for a sum just between two such numbers, all digits are the same.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kindred.distributed import sum_over_ranks

HISTORY = 20  # steps from which L-BFGS knows the curvature


class Linear(NamedTuple):
    """A linear classifier, float64: features [N, F] -> scores [N, C]."""

    weight: Tensor  # [C, F]
    bias: Tensor  # [C]

    def __call__(self, features: Tensor) -> Tensor:
        return features.to(self.weight.dtype) @ self.weight.T + self.bias


class Axes(NamedTuple):
    """Principal axes of a set of features: in them features are centred, uncorrelated and of mean square 1."""

    mean: Tensor  # [F]
    rotation: Tensor  # [F, F], orthogonal but for one factor
    variance: Tensor  # [F], along each axis

    @classmethod
    def of(cls, features: Tensor) -> "Axes":
        """Axes of features [N, F].

        Raises:
            ValueError: there is no example, or one that is not finite.
        """
        _check(features)
        mean = features.mean(dim=0, dtype=torch.float64)
        covariance = mean.new_zeros(len(mean), len(mean))
        for rows in _blocks(features):
            centred = rows.double() - mean
            covariance.addmm_(centred.T, centred, alpha=1 / len(features))
        variance, vectors = torch.linalg.eigh(covariance)
        # What is spread no wider than float32 rounds is all the same.
        scale = torch.maximum(variance.mean(), 1e-12 * mean.square().mean()).clamp(min=1e-60).sqrt()
        return cls(mean, vectors / scale, variance.clamp(min=0) / scale**2)

    @property
    def scale(self) -> Tensor:
        """What the features are divided by."""
        return self.rotation[:, 0].square().sum().rsqrt()

    def __call__(self, features: Tensor) -> Tensor:
        """Features [N, F] in these axes, float64."""
        return (features.double() - self.mean) @ self.rotation


def leading_axes(sample: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """What turns features [N, F] into float32 coordinates [N, count] on their axes of largest variance.

    Args:
        sample: [n, F], features whose axes they are; n may be less than F, which may be too many for all their axes.
        count: of axes, at most; there are no more than n - 1.
    """
    _check(sample)
    mean = sample.mean(dim=0, dtype=torch.float64)
    centred = sample.double() - mean
    variance, vectors = torch.linalg.eigh(centred @ centred.T)
    there = variance > 1e-10 * variance[-1]
    axes = (centred.T @ vectors[:, there] / variance[there].sqrt())[:, -count:]
    return lambda features: torch.cat([((rows.double() - mean) @ axes).float() for rows in _blocks(features)])


@torch.no_grad()
def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    start: Linear | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    axes: Axes | None = None,
) -> Linear:
    """The minimum of mean cross-entropy + penalty / 2 * |W|^2; the bias is not penalised.

    L-BFGS works on weights for the features' principal axes, in units in which the Hessian at W = 0 is the identity.
    Turned axes change nothing about the problem (a rotation keeps |W|) but its condition; it is the weights that are
    turned, at each step, and not the features.

    Args:
        features: [n, F], this rank's share.
        labels: [n] int64 in [0, C).
        num_classes: C.
        penalty: lambda > 0; scikit-learn's C is 1 / (N * penalty).
        start: where to begin; zero by default.
        tolerance: of the gradient's largest entry, in those variables.
        max_iterations: a warning says that the tolerance was not reached.
        axes: of the features, or of ones much like them, the same on all ranks. By default, which is for one process,
            those of the features.

    Raises:
        ValueError: penalty <= 0; features that are not finite.
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be greater than 0, got {penalty}")
    axes = axes or Axes.of(features)
    rotation = axes.rotation * axes.scale  # its inverse is its transpose
    width = len(rotation)
    scale, bias_scale = (axes.variance * axes.scale**2 / num_classes + penalty).sqrt(), math.sqrt(1 / num_classes)
    variables = scale.new_zeros(num_classes, width + 1)
    if start is not None:
        variables[:, :width] = start.weight @ rotation * scale
        variables[:, width] = (start.bias + start.weight @ axes.mean) * bias_scale
    grid = 2.0 ** math.floor(math.log2(tolerance) - 7)

    def classifier(variables: Tensor) -> Linear:
        weight = (variables[:, :width] / scale) @ rotation.T
        return Linear(weight, variables[:, width] / bias_scale - weight @ axes.mean)

    def objective(variables: Tensor) -> tuple[float, Tensor]:
        current = classifier(variables)
        loss, by_weight, by_bias = mean_gradient(current, features, labels)
        loss += penalty / 2 * current.weight.square().sum()
        by_weight = (by_weight - by_bias[:, None] * axes.mean + penalty * current.weight) @ rotation
        gradient = torch.cat([by_weight / scale, by_bias[:, None] / bias_scale], dim=1)
        return float(_rounded(loss, grid * tolerance)), _rounded(gradient, grid)

    variables, gradient = _l_bfgs(objective, variables, tolerance, max_iterations)
    if not gradient <= tolerance:
        warnings.warn(
            f"the linear classifier has not converged: with penalty {penalty:.1e} its gradient is {gradient:.1e} after "
            f"at most {max_iterations} iterations, not {tolerance:.1e}",
            stacklevel=3,  # past no_grad
        )
    return classifier(variables)


def _l_bfgs(
    objective: Callable[[Tensor], tuple[float, Tensor]], x: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, float]:
    """The minimum of a strictly convex function (Nocedal & Wright 2006, algorithm 7.5), and its gradient's largest entry.

    torch.optim.LBFGS begins with a tiny step, although in these units 1 is right, and takes a tenth more time.
    A step that lowers the function enough is taken: where it is convex, the curvature condition is there for nothing.

    Args:
        objective: x -> (value, gradient of x's shape).
    """
    value, gradient = objective(x)
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(
        maxlen=HISTORY
    )  # steps, changes of the gradient, their products
    for _ in range(max_iterations):
        if not float(gradient.abs().max()) > tolerance:
            break
        direction, weights = gradient.clone(), []
        for step, change, product in reversed(history):
            weights.append((step * direction).sum() / product)
            direction -= weights[-1] * change
        if history:
            _, change, product = history[-1]
            direction *= product / change.square().sum()
        for (step, change, product), weight in zip(history, reversed(weights), strict=True):
            direction += (weight - (change * direction).sum() / product) * step
        slope, length = float((gradient * direction).sum()), 1.0
        while True:
            new_value, new_gradient = objective(x - length * direction)
            if new_value <= value - 1e-4 * length * slope or length < 1e-6:
                break
            length /= 2
        step, change = -length * direction, new_gradient - gradient
        product = (step * change).sum()
        if float(product) > 0:  # else there is only rounding left
            history.append((step, change, product))
        x, value, gradient = x + step, new_value, new_gradient
    return x, float(gradient.abs().max())


def mean_gradient(classifier: Linear, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy over the examples of all ranks, and its gradient by weight [C, F] and bias [C]."""
    weight, bias = classifier
    loss, by_weight, by_bias = bias.new_zeros(1), torch.zeros_like(weight), torch.zeros_like(bias)
    for rows, targets in zip(_blocks(features), labels[None].split(_block_size(features), dim=1), strict=True):
        rows = rows.double()
        scores = torch.addmm(bias[:, None], weight, rows.T)  # [C, n]: less time than [n, C]
        of_targets, peak = scores.gather(0, targets), scores.amax(dim=0, keepdim=True)
        residuals = scores.sub_(peak).exp_()  # softmax minus one-hot, in place and without a graph
        total = residuals.sum(dim=0, keepdim=True)
        loss += (total.log() + peak - of_targets).sum()
        residuals /= total
        residuals.scatter_add_(0, targets, residuals.new_full(targets.shape, -1.0))
        by_weight.addmm_(residuals, rows)
        by_bias += residuals.sum(dim=1)
    sums = sum_over_ranks(torch.cat([bias.new_tensor([len(labels)]), loss, by_weight.flatten(), by_bias]))
    loss, by_weight, by_bias = (sums[1:] / sums[0]).split([1, weight.numel(), len(bias)])
    return loss[0], by_weight.view_as(weight), by_bias


def _rounded(x: Tensor, grid: float) -> Tensor:
    """To multiples of a power of two."""
    return (x / grid).round() * grid


def _check(features: Tensor) -> None:
    if len(features) == 0:
        raise ValueError("there is no labelled example to fit a linear classifier to")
    if not bool(features.isfinite().all()):
        raise ValueError("the features are not finite, so there is no linear classifier of them")


def _block_size(features: Tensor) -> int:
    """Rows that are raised to float64 at once: on a CPU they are to stay in its cache; a GPU wants few and large kernels."""
    return max(1, 2 ** (18 if features.device.type == "cpu" else 24) // features.shape[1])


def _blocks(features: Tensor) -> tuple[Tensor, ...]:
    return features.split(_block_size(features))
