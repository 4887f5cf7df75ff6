"""What a paper claims, what it published for it, and what one's own runs say: configs/published/<claim>.yaml over runs.

    claim: fewer labels need NNCLR more                      one sentence
    source: ImageNet, ...                                    where the published values are from, and which are unchecked
    where: {model: [simclr, nnclr], model.momentum: null}    settings of the runs that count; null: absent, or none
    columns: [model, labels, accuracy]                       what is compared; the last but one goes along the axis
    rows: [[nnclr, 0.01, 0.565], ...]                        published values, or none

A setting is a group's name (`model`, `views`) or a dotted key (`model.queue_size`, `model.neighbours._target_`).
`labels` and `data` as columns are none of a training: then the accuracies are those that `kindred evaluate --labels ...`
or `--data ...` wrote beside it, on test images; without them, of the last epoch, on val images. Which sweep a run belongs
to does not matter: what two claims ask for is trained once. A file without `claim` is of values that a sweep alone has
beside it. Imports no torch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from kindred.config_files import config_names, find_config
from kindred.errors import ConfigError
from kindred.runs.run import Run
from kindred.study.groups import Group, numbers
from kindred.study.settings import differing, flat_config

EVALUATED = ("labels", "data")  # columns that `kindred evaluate` varies, not a training
KEYS = ("claim", "source", "where", "columns", "rows")


@dataclass
class Claim:
    """A claim with its published values, and what runs say of the same settings.

    Args:
        name: of its file.
        data: what the runs were trained on.
        claim, source: as in the file.
        columns: the settings that are compared.
        published: values of the settings -> accuracy.
        measured: values of the settings -> the accuracy of each seed.
        base: values of the settings -> the accuracies of the untrained encoders, where they are known.
    """

    name: str
    data: str
    claim: str
    source: str
    columns: list[str]
    published: dict[tuple, float]
    measured: dict[tuple, list[float]] = field(default_factory=dict)
    base: dict[tuple, list[float]] = field(default_factory=dict)


def claims_over(runs: Sequence[Run]) -> list[Claim]:
    """Those claims of configs/published/ for which `runs` compare anything, for each data set that was trained on.

    Raises:
        ConfigError: a file that is no claim, or runs that differ in more than a claim compares.
    """
    found = []
    for name in sorted(config_names("published")):
        path = find_config(f"published/{name}")
        assert path is not None  # it was listed
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(text, dict) or "claim" not in text:
            continue
        try:
            _read(name, "", text)
            for data in dict.fromkeys(setting(run, "data") for run in runs):
                own = [run for run in runs if setting(run, "data") == data]
                found.append(_measured(_read(name, data, text), text["where"] or {}, own))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return [claim for claim in found if len(claim.measured) > 1]


def _read(name: str, data: str, text: dict[str, Any]) -> Claim:
    """A checked file, without runs."""
    if wrong := sorted(set(text) ^ set(KEYS)):
        raise ConfigError(
            f"{wrong[0]}: {'needs a value' if wrong[0] in KEYS else 'no such key'}; keys: {', '.join(KEYS)}"
        )
    columns, rows = text["columns"], text["rows"] or []
    if not isinstance(columns, list) or not 2 <= len(columns) <= 3 or columns[-1] != "accuracy":
        raise ConfigError(f"columns is {columns}: give one or two settings, and accuracy")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns) or not 0 <= row[-1] <= 1:
            raise ConfigError(f"rows: {row} has to hold {', '.join(columns)}, the last between 0 and 1")
    published = {tuple(row[:-1]): float(row[-1]) for row in rows}
    return Claim(name, data, text["claim"], text["source"], columns[:-1], published)


def _measured(claim: Claim, where: dict[str, Any], runs: Sequence[Run]) -> Claim:
    """The claim with what those runs say of it that `where` lets count; a seed that was run again counts once."""
    judged = [column for column in claim.columns if column in EVALUATED]
    counting = [run for run in runs if all(_is(setting(run, key), value) for key, value in where.items())]
    members: dict[tuple, list[tuple[Run, dict[str, float]]]] = {}
    for run in counting:
        for record in _evaluations(run, judged) if judged else [_trained(run)]:
            if "accuracy" in record:
                place = tuple(record[c] if c in judged else setting(run, c) for c in claim.columns)
                members.setdefault(place, []).append((run, record))
    for place, found in members.items():
        if keys := differing([flat_config(run) for run, _ in found]):
            values = " and ".join(sorted({str(flat_config(run).get(keys[0])) for run, _ in found}))
            said = ", ".join(f"{column}={value}" for column, value in zip(claim.columns, place, strict=True))
            raise ConfigError(
                f"where: runs with {said} differ in {keys[0]}, {values}: name it there, or compare fewer runs"
            )
        seeds = Group({}, [run for run, _ in found]).seeds
        claim.measured[place] = _means(seeds, [record["accuracy"] for _, record in found])
        claim.base[place] = _means(seeds, [record.get("untrained", float("nan")) for _, record in found])
    return claim


def setting(run: Run, key: str) -> Any:
    """A group's chosen name, or the value of a dotted key; None where the run has none."""
    config = flat_config(run)
    return config.get(f"choices.{key}", config.get(key))


def _is(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list) else value == wanted


def _trained(run: Run) -> dict[str, float]:
    """The linear probe of the last epoch of a run that ended."""
    reached = numbers(run)
    if "epochs" not in reached:
        return {}
    names = {"accuracy": ("val/linear_top1", "test/linear_top1"), "untrained": ("untrained/linear_top1",)}
    return {key: reached[name] for key, either in names.items() for name in either if name in reached}


def _evaluations(run: Run, judged: Sequence[str]) -> list[dict[str, Any]]:
    """Linear classifiers that `kindred evaluate` fitted, as far as they differ in nothing but what is `judged`."""
    own, found = setting(run, "data"), []
    for path in sorted(run.path.glob("evaluation*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        share, data, step = result.get("labels", 1.0), result.get("data", own), result.get("step")
        outdated = None not in (step, run.summary.get("step")) and step != run.summary["step"]
        if outdated or (data != own and "data" not in judged) or (share != 1 and "labels" not in judged):
            continue
        names = {"accuracy": ("test/linear_top1", "val/linear_top1"), "untrained": ("untrained/linear_top1",)}
        values = {key: result[name] for key, either in names.items() for name in either if name in result}
        found.append({"labels": float(share), "data": data, **values})
    return found


def _means(seeds: Sequence[str], values: Sequence[float]) -> list[float]:
    """The mean of each seed's values that are there."""
    own: dict[str, list[float]] = {}
    for seed, value in zip(seeds, values, strict=True):
        if value == value:
            own.setdefault(seed, []).append(value)
    return [sum(several) / len(several) for several in own.values()]
