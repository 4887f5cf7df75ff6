"""Which label-free judge can be trusted: what each says of many runs against a linear classifier's accuracy on test.

A judge is worth something if it ranks runs as that accuracy does (Kendall's tau-b), and if little is lost where the run is
taken that it likes best. Both with an interval: of runs drawn anew, with replacement (Efron & Tibshirani 1993).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kindred.runs.run import Run
from kindred.study.groups import numbers
from kindred.study.settings import as_text, flat_config

TRUTH, WITH_LABELS = "evaluation/linear_top1", "val/linear_top1"
FEWEST = 5  # runs that a correlation is shown of
DRAWS, LEVEL = 2000, 0.95

_KINDS: dict[str, tuple[str, Callable[[float], float]]] = {
    "rankme": ("RankMe", lambda x: x),
    "alpha_req": ("alpha-ReQ, near 1", lambda x: -abs(x - 1)),
    "lidar": ("LiDAR", lambda x: x),
    "common_lidar": ("LiDAR, common views", lambda x: x),
    "alignment": ("alignment, low", lambda x: -x),
    "common_alignment": ("alignment, low, common views", lambda x: -x),
    "uniformity": ("uniformity, low", lambda x: -x),
    "info_nce": ("InfoNCE, low", lambda x: -x),
    "common_info_nce": ("InfoNCE, low, common views", lambda x: -x),
}
# Metric -> heading, and the number that is higher for what the judge likes better.
JUDGES = {
    **{f"val/{name}": kind for name, kind in _KINDS.items()},
    **{f"val/projector_{name}": (f"{heading} (projector)", score) for name, (heading, score) in _KINDS.items()},
    "train/loss": ("train loss, low", lambda x: -x),
}
LABELLED = {WITH_LABELS: ("linear on val", lambda x: x), "val/knn_top1": ("kNN on val", lambda x: x)}


@dataclass(frozen=True)
class Estimate:
    """A number and the interval in which it lies for LEVEL of the draws; NaN where it has no value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What a judge is worth.

    Args:
        heading: the judge.
        scores: of each of the runs, higher for what it likes better.
        tau: Kendall's tau-b with the accuracy on test, over all runs.
        within: the same of pairs of runs of one method only.
        regret: accuracy on test, in points, that is lost by taking its best run instead of the best on val with labels.
        regret_within: the same where each method's best run is taken, the mean over the methods.
    """

    heading: str
    scores: np.ndarray
    tau: Estimate
    within: Estimate
    regret: Estimate
    regret_within: Estimate


@dataclass(frozen=True)
class Trial:
    """Judges of the runs on one data set, the one that ranks them best first.

    Args:
        data: its name.
        methods: of each run.
        truth: accuracy on test of each run.
        verdicts: on label-free judges.
        labelled: on what reads labels, and on a choice at random: what the others are held against.
    """

    data: str
    methods: list[str]
    truth: np.ndarray
    verdicts: list[Verdict]
    labelled: list[Verdict]


def try_judges(runs: Sequence[Run]) -> list[Trial]:
    """A trial for each data set with FEWEST runs or more that have been evaluated on test and judged.

    A judge that some of those runs lack is left out; so are runs that lack every judge.
    """
    by_data: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for run in runs:
        config, reached = flat_config(run), numbers(run)
        if {TRUTH, WITH_LABELS} <= reached.keys() and any(name in reached for name in JUDGES if name != "train/loss"):
            place = f"{config.get('choices.data')} {config.get('data.source.root')}"
            by_data.setdefault(place, []).append((as_text(config.get("choices.model")), reached))
    trials = (_trial(as_text(place.partition(" ")[0]), rows) for place, rows in by_data.items() if len(rows) >= FEWEST)
    return [trial for trial in trials if trial.verdicts]


def _trial(data: str, rows: Sequence[tuple[str, dict[str, float]]]) -> Trial:
    methods, truth = [method for method, _ in rows], np.array([reached[TRUTH] for _, reached in rows])
    with_labels = np.array([reached[WITH_LABELS] for _, reached in rows])
    draws = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), DRAWS)
    weights = np.concatenate([np.ones((1, len(rows)), dtype=int), draws])  # first the runs as they are
    same = np.array([[one == other for other in methods] for one in methods])

    def verdict(name: str, heading: str, score: Callable[[float], float]) -> Verdict | None:
        if not all(name in reached for _, reached in rows):
            return None
        scores = np.array([score(reached[name]) for _, reached in rows])
        return _verdict(heading, scores, truth, with_labels, weights, same, methods)

    label_free, labelled = (
        [found for name, judge in judges.items() if (found := verdict(name, *judge))] for judges in (JUDGES, LABELLED)
    )
    at_random = _verdict("any run, at random", np.zeros(len(rows)), truth, with_labels, weights, same, methods)
    return Trial(data, methods, truth, sorted(label_free, key=_rank), [*labelled, at_random])


def _rank(verdict: Verdict) -> float:
    return -np.nan_to_num(verdict.tau.value, nan=-2.0)


def _verdict(
    heading: str,
    scores: np.ndarray,
    truth: np.ndarray,
    with_labels: np.ndarray,
    weights: np.ndarray,
    same: np.ndarray,
    methods: Sequence[str],
) -> Verdict:
    cost = 100 * (chosen(with_labels, truth, weights) - chosen(scores, truth, weights))
    of_methods = []
    for method in dict.fromkeys(methods):
        own = weights * (np.array(methods) == method)
        of_methods.append(100 * (chosen(with_labels, truth, own) - chosen(scores, truth, own)))
    return Verdict(
        heading,
        scores,
        tau=_estimate(kendall(scores, truth, weights)),
        within=_estimate(kendall(scores, truth, weights, same)),
        regret=_estimate(cost),
        regret_within=_estimate(np.nanmean(of_methods, axis=0)),
    )


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray, pairs: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b of samples in which run i stands `weights[d, i]` times, [D]; NaN where all are tied.

    Args:
        x, y: [n].
        weights: integers [D, n].
        pairs: bool [n, n], of which pairs; by default all.
    """
    a, b = (np.sign(z[:, None] - z[None]) for z in (x, y))
    if pairs is not None:
        a, b = a * pairs, b * pairs
    agree, untied_x, untied_y = (((weights @ each) * weights).sum(axis=1) for each in (a * b, a * a, b * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return agree / np.sqrt(untied_x * untied_y)


def chosen(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Accuracy of the run with the highest score among those with a weight, [D]; the mean over several that share it."""
    there = np.where(weights > 0, scores, -np.inf)
    best = (there == there.max(axis=1, keepdims=True)) * weights
    with np.errstate(invalid="ignore"):
        return (best * truth).sum(axis=1) / best.sum(axis=1)


def _estimate(values: np.ndarray) -> Estimate:
    """Of a value and what it was in the draws."""
    outside = 50 * (1 - LEVEL)
    found = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(found, [outside, 100 - outside]) if len(found) else (np.nan, np.nan)
    return Estimate(float(values[0]), float(low), float(high))
