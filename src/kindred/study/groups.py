"""Several runs as one study: where they are, in which settings they differ, and what they reached over seeds.

What `make compare` and `make sweep` share. Imports no torch: comparing runs is quick.
"""

import glob
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from kindred.errors import AbsentError
from kindred.runs.fingerprint import Record, same, short
from kindred.runs.run import Run, load_run

ABSENT = object()
ROOT = "data.source.root"

SEED = re.compile(r"(.*\.)?(label_)?seed")
# Seeds, places, and what only says how a run is shown and written down: no run scores better for it.
ASIDE = re.compile(
    r"(.*\.)?((label_)?seed|_convert_)|(run_dir|log_dir|resume|logger|callbacks\.(progress|figures|checkpoints))(\..*)?"
    r"|trainer\.enable_.*|data\.source\.cache_dir"
)


def find_runs(places: Sequence[str | Path]) -> list[Run]:
    """The runs in `places`, in order of path; a run that is found twice, as through logs/latest, is there once.

    Args:
        places: globs, run directories, or directories with run directories anywhere below them. A run directory has a
            config.yaml next to a metrics.csv or an environment.json.

    Raises:
        FileNotFoundError: a place without a run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        path = Path(place).expanduser()
        tops = [path] if path.exists() else sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        directories = [directory for top in tops for directory in _run_directories(top)]
        if not directories:
            raise AbsentError(
                f"{place}: there is no run (a directory with config.yaml, and metrics.csv or environment.json)"
            )
        for directory in directories:
            real = directory.resolve()
            if directory.name != real.name:  # logs/latest: its name says nothing
                directory = real.relative_to(Path.cwd()) if real.is_relative_to(Path.cwd()) else real
            found.setdefault(real, directory)
    return [load_run(path) for path in sorted(found.values())]


def _run_directories(top: Path) -> list[Path]:
    found = []
    for directory, below, files in os.walk(top):
        if "config.yaml" in files and {"metrics.csv", "environment.json"} & set(files):
            found.append(Path(directory))
            below.clear()
    return found


@lru_cache(maxsize=1024)
def flat_config(run: Run) -> dict[str, Any]:
    """The resolved config of `run` as dotted key -> plain value, keys as on the command line.

    A list of plain values is a value; one that holds parts, such as the views, is taken apart (`views.views.0.flip`).

    Raises:
        ConfigError: config.yaml is no plain configuration.
    """
    flat: dict[str, Any] = {}

    def flatten(node: Any, key: str) -> None:
        entries = enumerate(node) if isinstance(node, list) and any(isinstance(v, dict) for v in node) else None
        entries = node.items() if isinstance(node, dict) and node else entries
        if entries is None:
            flat[key] = node
        for name, value in entries or ():
            flatten(value, f"{key}.{name}" if key else str(name))

    flatten(run.settings, "")
    return flat


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of flat configs whose value is not the same in all; absent is a value; seeds and places do not count.

    Where runs differ in the choice of a group (`choices.model`), of that group's keys only the numbers that every run
    has are listed (the temperature, the learning rate): the others follow from the choice. Of the entries of a list that
    differ in the same way, as both views do, the first is listed. An int is not a float here, since Lightning's trainer
    takes 1 for one batch and 1.0 for all of them.
    """
    keys = dict.fromkeys(key for config in configs for key in config if not ASIDE.fullmatch(key))
    texts = {key: [_exact(config.get(key, ABSENT)) for config in configs] for key in keys}
    texts = {key: values for key, values in texts.items() if len(set(values)) > 1}

    def counts(key: str) -> bool:
        group, _, rest = key.partition(".")
        if group == "choices":
            return any(other.startswith(f"{rest}.") for other in texts)
        choice = texts.get(f"choices.{group}")
        if choice is None or len(set(zip(choice, texts[key], strict=True))) > len(set(choice)):
            return True
        return not re.search(r"\.\d+\.", rest) and all(_is_number(config.get(key)) for config in configs)

    alike: dict[tuple, str] = {}
    for key in filter(counts, texts):
        alike.setdefault((re.sub(r"\.\d+\.", ".", key), *texts[key]), key)
    return list(alike.values())


def _exact(value: Any) -> str:
    return "" if value is ABSENT else json.dumps(value, sort_keys=True, default=str)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class Group:
    """Runs that differ in nothing but their seeds; a seed that was run again counts once, with the mean of its runs.

    Args:
        settings: the keys in which the runs of a study differ -> this group's value; a key that it lacks is left out.
        runs: in order of path.
    """

    settings: dict[str, Any]
    runs: list[Run]

    @cached_property
    def numbers(self) -> list[dict[str, float]]:
        """What each run reached; see `numbers`."""
        return [numbers(run) for run in self.runs]

    @cached_property
    def seeds(self) -> list[str]:
        """The seeds of each run; of runs that repeat each other they are the same."""
        return [_exact({k: v for k, v in flat_config(run).items() if SEED.fullmatch(k)}) for run in self.runs]

    @property
    def count(self) -> str:
        """n: how many seeds, and how many runs more there are that repeat one."""
        repeats = len(self.runs) - (n := len(set(self.seeds)))
        return f"{n} + {repeats} repeat{'s' * (repeats > 1)}" if repeats else str(n)

    def values(self, name: str) -> list[float]:
        """The metric `name` of the seeds that have it."""
        found: dict[str, list[float]] = {}
        for seed, reached in zip(self.seeds, self.numbers, strict=True):
            if name in reached:
                found.setdefault(seed, []).append(reached[name])
        return [sum(values) / len(values) for values in found.values()]

    def mean(self, name: str) -> float:
        """Mean over the seeds that have it; NaN if none has."""
        values = self.values(name)
        return float(np.mean(values)) if values else math.nan

    def std(self, name: str) -> float:
        """Sample standard deviation (n - 1) over the seeds that have it; NaN if fewer than two have."""
        values = self.values(name)
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def numbers(run: Run) -> dict[str, float]:
    """The numbers of summary.json, and of evaluation.json, if of that step, the linear probe and the run's own classifier.

    That is `evaluation/linear_top1`, or of data without a test split `evaluation/val_linear_top1`.
    """
    evaluation = {} if is_outdated(run) else _evaluation(run)
    judged = {
        f"{prefix}{probe}_top1": evaluation.get(f"{on}/{probe}_top1")
        for probe in ("linear", "classifier")
        for prefix, on in (("", "test"), ("val_", "val"))
    }
    reached = run.summary | {f"evaluation/{name}": value for name, value in judged.items()}
    return {name: float(value) for name, value in reached.items() if _is_number(value) and not math.isnan(value)}


def is_outdated(run: Run) -> bool:
    """Whether evaluation.json is of other weights than those that the run's summary is of: the run has gone on since."""
    judged, reached = _evaluation(run).get("step"), run.summary.get("step")
    return judged is not None and reached is not None and judged != reached


def _evaluation(run: Run) -> dict[str, Any]:
    path = run.path / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fold_seeds(runs: Sequence[Run]) -> tuple[list[str], list[Group]]:
    """The keys in which `runs` differ, and the runs with the same values of them as groups, in order of these values."""
    configs = _with_data(runs, [flat_config(run) for run in runs])
    keys = differing(configs)
    groups: dict[tuple[str, ...], Group] = {}
    for run, config in zip(runs, configs, strict=True):
        settings = {key: config[key] for key in keys if key in config}
        place = tuple(_exact(settings.get(key, ABSENT)) for key in keys)
        groups.setdefault(place, Group(settings, [])).runs.append(run)
    order = sorted(groups.values(), key=lambda group: [_rank(group.settings.get(key, ABSENT)) for key in keys])
    return keys, order


def _with_data(runs: Sequence[Run], configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies of flat configs that say which data are others, and not where the same ones are.

    Of data that have changed where they were, `data.fingerprint` tells. Runs that do not say what their data were are not
    told apart by that.
    """
    known: list[Record] = []
    places: list[int | None] = []
    for found in (run.data for run in runs):
        if found is not None and not any(same(found, other) for other in known):
            known.append(found)
        places.append(None if found is None else next(p for p, other in enumerate(known) if same(found, other)))
    told, roots = [dict(config) for config in configs], {}
    for place, config in zip(places, told, strict=True):
        if None not in places and ROOT in config:  # of copies, the first one's
            config[ROOT] = roots.setdefault(place, config[ROOT])
    settings = [_exact([config.get("choices.data"), config.get(ROOT)]) for config in told]
    if len(set(settings)) < len({pair for pair in zip(settings, places, strict=True) if pair[1] is not None}):
        for place, config in zip(places, told, strict=True):
            config |= {} if place is None else {"data.fingerprint": short(known[place])}
    return told


def _rank(value: Any) -> tuple:
    """Absent, null, numbers by value, then texts, the numbers in them by value."""
    if value is ABSENT or value is None:
        return (0, value is None)
    if isinstance(value, int | float):
        return (1, value)
    parts = re.split(r"(\d+)", value if isinstance(value, str) else _exact(value))
    return (2, *(int(part) if place % 2 else part for place, part in enumerate(parts)))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key -> its end, as short as no other key has it: model.temperature -> temperature."""

    def shortest(key: str) -> str:
        parts = key.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        return next((e for e in ends if not any(f".{k}".endswith(f".{e}") for k in keys if k != key)), key)

    return {key: shortest(key) for key in keys}


def as_text(value: Any) -> str:
    """A setting as a person reads it: texts as they are, all else as JSON; without what a terminal would act on."""
    text = value if isinstance(value, str) else _exact(value)
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
