"""What a linear classifier can read from frozen features, trained to convergence.

The protocol is that of Kornblith et al. 2019 (arXiv:1805.08974, section 3.1) and SimCLR (Chen et al. 2020, appendix
B.8.1): multinomial logistic regression with an l2 penalty, fitted by L-BFGS to all features at once, without
augmentation; the penalty is chosen on held-out examples, and the classifier is then fitted again to all of them. They try
45 penalties from 1e-6 to 1e5; here it is two per decade from 10 down to 1e-6, of features of mean square 1, from one of
them up and down for as long as it gets better. Better is the lower cross-entropy: the accuracy of some hundred held-out
examples is flat over two decades of penalty, and its maximum lies anywhere on them.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kindred.distributed import gather_uneven, sum_over_ranks
from kindred.evaluation.logistic import Axes, Linear, fit_logistic, mean_gradient

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(2, -13, -1))
LARGE = 1e10  # examples x features x classes, beyond which `probe_bank` stops after LARGE_ITERATIONS
ITERATIONS, LARGE_ITERATIONS = 200, 20


class LinearProbe(NamedTuple):
    """A linear classifier of frozen features and how it was chosen."""

    classifier: Linear
    penalty: float  # of features of mean square 1
    val_top1: float  # with that penalty, fitted to train alone; NaN without val

    def __call__(self, features: Tensor) -> Tensor:
        """Scores [N, C], float64, of features [N, F]."""
        return self.classifier(features)


@torch.no_grad()
def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    num_classes: int,
    refit: bool = True,
    penalties: Sequence[float] = PENALTIES,
    start: LinearProbe | None = None,
    choosing: float = 1e-3,
    tolerance: float = 1e-5,
    max_iterations: int = 2000,
    axes: Axes | None = None,
) -> LinearProbe:
    """Fit to train with one penalty after the other, choose the one that is best on val, and fit to train and val.

    Args:
        train, val: features [n, F], [m, F], this rank's shares; ranks may have none. Without any val nothing is chosen.
        train_labels, val_labels: [n], [m] int64 in [0, C).
        num_classes: C; classes may be absent.
        refit: False leaves val out of the last fit, where its labels are not to be used for more than choosing.
        penalties: in descending order, of features of mean square 1.
        start: the probe of much the same features, where fit and search begin; by default zero and the middle penalty.
        choosing: `fit_logistic`'s tolerance for the fits that are only compared.
        tolerance: for the last one.
        max_iterations: of each fit.
        axes: see `fit_logistic`; their scale makes the mean square 1.

    Raises:
        ValueError: there is no train example, or one that is not finite.
    """
    axes = axes or Axes.of(train)
    strength = float(axes.scale**2)

    def fit(number: int, classifier: Linear | None) -> tuple[float, float, Linear]:
        """Cross-entropy and accuracy on val with that penalty, and the classifier."""
        classifier = fit_logistic(
            train, train_labels, num_classes, penalties[number] * strength, classifier, choosing, max_iterations, axes
        )
        return *_cross_entropy_and_top1(classifier, val, val_labels), classifier

    begin = Linear(*(part.to(axes.mean) for part in start.classifier)) if start else None
    if begin is not None and not float(mean_gradient(begin, train, train_labels)[0]) < math.log(num_classes):
        begin = None  # the features have become others: zero is nearer
    best = penalties.index(start.penalty) if start and start.penalty in penalties else len(penalties) // 2
    fits = {best: fit(best, begin)}
    for step in (1, -1):
        while 0 <= best + step < len(penalties) and best + step not in fits:
            fits[best + step] = fit(best + step, fits[best][2])
            if not fits[best + step][0] < fits[best][0]:
                break
            best += step
    _, top1, classifier = fits[best]
    if refit:
        train, train_labels = torch.cat([train, val]), torch.cat([train_labels, val_labels])
    classifier = fit_logistic(
        train, train_labels, num_classes, penalties[best] * strength, classifier, tolerance, max_iterations, axes
    )
    return LinearProbe(classifier, penalties[best], top1)


def hold_out(labels: Tensor) -> Tensor:
    """The last tenth, rounded, of the examples of each class [N]: bool [N]; label -1 is no class.

    The last ones and not any: sources keep together what belongs together, such as patches of one photograph, of which
    some in train and some held out would speak for too weak a penalty.
    """
    order = labels.argsort(stable=True)
    counts = (labels + 1).bincount()
    left = (counts.cumsum(0)[labels[order] + 1]) - torch.arange(len(labels), device=labels.device)  # in its class
    held_out = torch.empty_like(labels, dtype=torch.bool)
    held_out[order] = (left <= ((counts + 5) // 10)[labels[order] + 1]) & (labels[order] >= 0)
    return held_out


def probe_bank(
    features: Tensor, labels: Tensor, positions: Tensor, num_classes: int, start: LinearProbe | None = None
) -> LinearProbe:
    """`linear_probe` of a bank in less time: a tenth of it (`hold_out`) chooses, and fits end at a larger gradient.

    What is left of the gradient moved accuracies on photos by at most 0.2%. A fit takes at most ITERATIONS, or
    LARGE_ITERATIONS if the bank has more than LARGE examples x features x classes.

    Args:
        features: [n, F], this rank's share.
        labels: [n] int64 in [0, C); a row with label -1 counts for nothing.
        positions: [n], of the rows in the bank: a permutation of range(N) over the ranks.
        num_classes: C.
        start: the last probe of the same encoder.

    Raises:
        ValueError: no labelled example on any rank, or one that is not finite.
    """
    whole = gather_uneven(labels)[gather_uneven(positions).argsort()]
    held_out, known = hold_out(whole)[positions], labels >= 0
    train, val = known & ~held_out, known & held_out
    axes = Axes.of(spread_sample(features[train], positions[train]))
    large = len(whole) * features.shape[1] * num_classes > LARGE
    with warnings.catch_warnings():
        if large:  # that it has not converged by then is on purpose
            warnings.filterwarnings("ignore", "the linear classifier has not converged")
        return linear_probe(
            features[train],
            labels[train],
            features[val],
            labels[val],
            num_classes,
            start=start,
            choosing=0.01 / num_classes**0.5,  # the gradient at W = 0 is of order 1 / sqrt(C)
            tolerance=0.006 / num_classes**0.5,
            max_iterations=LARGE_ITERATIONS if large else ITERATIONS,
            axes=axes,
        )


def spread_sample(features: Tensor, positions: Tensor, count: int = 4096) -> Tensor:
    """At most `count` examples, evenly spread, of features [n, F] that are dealt to ranks: the same on every rank.

    Args:
        positions: int64 [n], of the rows in the whole.
    """
    whole = gather_uneven(positions).sort().values
    chosen = whole[:: max(1, -(-len(whole) // count))]
    taken = torch.isin(positions, chosen)
    return gather_uneven(features[taken])[gather_uneven(positions[taken]).argsort()]


def _cross_entropy_and_top1(classifier: Linear, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Means over the examples of all ranks; NaN without any."""
    scores = classifier(features)
    right = (scores.argmax(dim=1) == labels).double().sum()
    loss = cross_entropy(scores, labels, reduction="sum")
    loss, right, count = sum_over_ranks(torch.stack([loss, right, right.new_tensor(len(labels))])).tolist()
    return (loss / count, right / count) if count else (math.nan, math.nan)
