"""Several runs as one study: where they are, in which settings they differ, and what they reached over seeds.

What `make compare` and `make sweep` share. Imports no torch: comparing runs is quick.
"""

import glob
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kindred.errors import AbsentError, ConfigError, KindredError
from kindred.runs.fingerprint import Record, same, short
from kindred.runs.run import Run, load_run
from kindred.study.settings import ABSENT, SEED, differing, exact, flat_config, is_number, natural_order

ROOT = "data.source.root"
ORIGINS = ("init_from", "model.teacher_from")  # the run that a fine-tuned or distilled one begins with


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
        """The seeds of each run, and what it begins with; of runs that repeat each other they are the same."""
        configs = map(flat_config, self.runs)
        return [exact({k: v for k, v in config.items() if SEED.fullmatch(k) or k in ORIGINS}) for config in configs]

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
    return {name: float(value) for name, value in reached.items() if is_number(value) and not math.isnan(value)}


def is_outdated(run: Run) -> bool:
    """Whether evaluation.json is of other weights than those that the run's summary is of: the run has gone on since."""
    judged, reached = _evaluation(run).get("step"), run.summary.get("step")
    return judged is not None and reached is not None and judged != reached


def _evaluation(run: Run) -> dict[str, Any]:
    path = run.path / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fold_seeds(runs: Sequence[Run]) -> tuple[list[str], list[Group]]:
    """The keys in which `runs` differ, and the runs with the same values of them as groups, in order of these values."""
    configs = _with_origins(_with_data(runs, [flat_config(run) for run in runs]))
    keys = differing(configs)
    groups: dict[tuple[str, ...], Group] = {}
    for run, config in zip(runs, configs, strict=True):
        settings = {key: config[key] for key in keys if key in config}
        place = tuple(exact(settings.get(key, ABSENT)) for key in keys)
        groups.setdefault(place, Group(settings, [])).runs.append(run)
    order = sorted(groups.values(), key=lambda group: [natural_order(group.settings.get(key, ABSENT)) for key in keys])
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
    settings = [exact([config.get("choices.data"), config.get(ROOT)]) for config in told]
    if len(set(settings)) < len({pair for pair in zip(settings, places, strict=True) if pair[1] is not None}):
        for place, config in zip(places, told, strict=True):
            config |= {} if place is None else {"data.fingerprint": short(known[place])}
    return told


def _with_origins(
    configs: Sequence[dict[str, Any]], seen: frozenset[str] = frozenset(), steps: int = 1
) -> list[dict[str, Any]]:
    """Copies of flat configs in which runs that begin with those of several seeds begin with the first of them.

    Args:
        seen, steps: the origins met on the way here from the runs that are compared, and how many steps it took.

    Raises:
        ConfigError: runs that begin with each other.
    """
    told = [dict(config) for config in configs]
    for key in ORIGINS:
        places = list(dict.fromkeys(config[key] for config in told if config.get(key)))
        found = {place: config for place in places if (config := _settings_at(place)) is not None}
        met = seen | found.keys()
        if found and steps > len(met):  # a way without a circle has no more steps than places
            raise ConfigError(
                f"{next(iter(found))}/config.yaml: what {key} names begins with this run itself: runs come round in a circle"
            )
        known: dict[str, dict[str, Any]] = {}
        first: dict[str, str] = {}
        theirs = _with_origins(list(found.values()), met, steps + 1) if found else []
        for place, config in zip(found, theirs, strict=True):
            first[place] = next((other for other, its in known.items() if not differing([its, config])), place)
            known.setdefault(first[place], config)
        for config in told:
            if config.get(key) in first:
                config[key] = first[config[key]]
    return told


def _settings_at(place: str) -> dict[str, Any] | None:
    """The flat config of the run at `place`; None where there is none (any more), or none that can be read."""
    try:
        return flat_config(load_run(place))
    except (KindredError, OSError):
        return None
