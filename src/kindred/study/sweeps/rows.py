"""The rows of a sweep: one per training that ended, by the values that were varied, over their seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import yaml

from kindred.config_files import find_config
from kindred.study.sweeps.sweep_file import SweepFile

ACCURACIES = {"kNN": "knn_top1", "linear": "linear_top1"}
GEOMETRY = {"uniformity": "projector_uniformity", "tolerance": "projector_tolerance"}  # of what tau acts on
PUBLISHED = ("accuracy", "uniformity", "tolerance")  # columns of configs/published/
Row = dict[str, Any]


def setting(row: Row, keys: Sequence[str]) -> str:
    """Such as `temperature=0.2 seed=1`."""
    return " ".join(f"{key.rpartition('.')[2]}={number(row[key])}" for key in keys if key in row)


def number(value: Any) -> str:
    """A value as a person writes it; nothing for one that is absent."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of the metric `name` (without its split) over the rows that have it.

    The split is val or test, whichever the runs were judged on. NaN where there is nothing, or no deviation of one value.
    """
    values = [row[key] for row in rows for key in (f"val/{name}", f"test/{name}") if key in row]
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return (statistics.mean(values) if values else math.nan), deviation


def by_value(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple, list[Row]]:
    """Successful rows by the values of `keys`, None for one that a row's grid lacks: numbers by size, texts as they come."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    ranks = [_ranks([group[place] for group in groups]) for place in range(len(keys))]
    return dict(sorted(groups.items(), key=lambda item: [rank[v] for rank, v in zip(ranks, item[0], strict=True)]))


def _ranks(values: Sequence[Any]) -> dict[Any, float]:
    """The places of values in an order: numbers by size, texts as they come, and what is absent last."""
    different = list(dict.fromkeys(value for value in values if value is not None))
    if is_numeric(different):
        different.sort()
    return {None: len(different), **{value: place for place, value in enumerate(different)}}


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values are numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def published(sweep: SweepFile) -> tuple[str, list[Row]]:
    """Where published values of this sweep come from, and the values; nothing where none are known."""
    path = find_config(f"published/{sweep.name}")
    if path is None:
        return "", []
    text = yaml.safe_load(path.read_text())
    return text["source"], [dict(zip(text["columns"], row, strict=True)) for row in text["rows"]]
