"""A sweep file read, each of its words checked by itself."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kindred.config import ConfigError, YamlLoader
from kindred.config_files import config_names, find_config
from kindred.study.sweeps.sweep_file import ARGUMENTS, SweepFile

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("categorical", "constant", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
TRAIN, ONCE = ("kindred", "train"), "kindred.train"  # ONCE: the module that it was, which files of one's own may name


def read_sweep(name: str) -> SweepFile:
    """`configs/sweep/<name>.yaml`, or the file at the path `name`.

    Raises:
        ConfigError: there is no such file, or it says something that cannot be run; the message names the key.
    """
    path = find_config(f"sweep/{name}") or Path(name)
    if not path.is_file():
        names = ", ".join(config_names("sweep"))
        raise ConfigError(f"sweep={name}: there is no configs/sweep/{name}.yaml, and no such file. Choices: {names}")
    try:
        documents = [d if isinstance(d, dict) else {} for d in yaml.load_all(path.read_text(), YamlLoader)] or [{}]
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        shared = {**documents[0], "parameters": None}
        return _joined([_checked(path.stem, {**shared, **text}) for text in documents])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _joined(sweeps: list[SweepFile]) -> SweepFile:
    """Several grids as one sweep."""
    first = sweeps[0]
    for other in sweeps[1:]:
        for key in ("method", "metric", "goal", "run_cap", "base"):
            if getattr(other, key) != getattr(first, key):
                raise ConfigError(
                    f"{key}: the grids of one file must agree, here {getattr(first, key)!r} and {getattr(other, key)!r}"
                )
    if len(sweeps) > 1 and first.method != "grid":
        raise ConfigError(f"method is {first.method!r}: several searches in one file can only be grids")
    return replace(first, parts=tuple(part for sweep in sweeps for part in sweep.parts))


def _checked(name: str, text: dict[str, Any]) -> SweepFile:
    known = (
        "method",
        "metric",
        "parameters",
        "command",
        "run_cap",
        "name",
        "description",
        "program",
        "project",
        "entity",
    )
    if unknown := sorted(text.keys() - set(known)):
        raise ConfigError(f"{unknown[0]}: no such key of a sweep, or one that only W&B knows. Keys: {', '.join(known)}")
    method, metric, cap = text.get("method"), text.get("metric") or {}, text.get("run_cap")
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}: choose {', '.join(METHODS)}")
    if (
        not isinstance(metric, dict)
        or not isinstance(metric.get("name"), str)
        or metric.get("goal") not in ("maximize", "minimize")
    ):
        raise ConfigError(f"metric is {metric}: needs a name, such as val/knn_top1, and a goal, maximize or minimize")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ConfigError(f"run_cap is {cap!r}: give the number of trainings, 1 or more")
    if method != "grid" and cap is None:
        raise ConfigError(f"run_cap: method {method} needs the number of trainings")
    if not isinstance(text.get("parameters"), dict) or not text["parameters"]:
        raise ConfigError("parameters: needs at least one, as <key>: {values: [...]}")
    parameters = {str(key): _parameter(key, settings) for key, settings in text["parameters"].items()}
    base = _base(text.get("command") or ["-m", "kindred", "train", ARGUMENTS])
    sweep = SweepFile(name, method, metric["name"], metric["goal"], cap, (parameters,), ())
    if method == "grid":
        sweep.grid()
    return sweep.with_overrides(base)


def _parameter(key: str, settings: Any) -> dict[str, Any]:
    """One parameter with its distribution, which W&B infers from what is given."""
    if not isinstance(settings, dict):
        raise ConfigError(
            f"parameters.{key} is {settings!r}: write {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}}"
        )
    settings: dict[str, Any] = dict(settings)
    if "value" in settings:
        settings = {"values": [settings["value"]], "distribution": "constant"}
    whole = all(isinstance(settings.get(end), int) for end in ("min", "max"))
    inferred = "categorical" if "values" in settings else "int_uniform" if whole else "uniform"
    kind = settings.setdefault("distribution", inferred)
    if kind not in DISTRIBUTIONS:
        raise ConfigError(f"parameters.{key}.distribution is {kind!r}: choose {', '.join(DISTRIBUTIONS)}")
    if kind in ("categorical", "constant"):
        values = settings.get("values")
        if (
            not isinstance(values, list)
            or not values
            or not all(isinstance(v, str | int | float | None) for v in values)
        ):
            raise ConfigError(f"parameters.{key}.values is {values!r}: give a list of numbers or texts")
        if len(set(values)) < len(values):
            raise ConfigError(f"parameters.{key}.values is {values}: one of them is there twice")
        return settings
    ends: list[Any] = [settings.get(end) for end in ("min", "max")]
    if not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
        raise ConfigError(f"parameters.{key}: min is {ends[0]!r} and max is {ends[1]!r}; give two numbers, min < max")
    if kind == "log_uniform_values" and ends[0] <= 0:
        raise ConfigError(f"parameters.{key}.min is {ends[0]}: on a logarithmic scale it must be above 0")
    if kind == "q_uniform" and not settings.get("q", 0) > 0:
        raise ConfigError(f"parameters.{key}.q is {settings.get('q')!r}: q_uniform needs a step above 0")
    return settings


def _base(command: list[Any]) -> list[str]:
    """The overrides among the words of `command`."""
    words = [part for word in command for part in (TRAIN if word == ONCE else (str(word),))]
    pairs = list(itertools.pairwise(words))
    if TRAIN not in pairs or ARGUMENTS not in words:
        raise ConfigError(f"command is {' '.join(words)!r}: it must run kindred train with {ARGUMENTS}")
    return [word for word in words[pairs.index(TRAIN) + 2 :] if word != ARGUMENTS]
