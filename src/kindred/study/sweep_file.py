"""A sweep file: which trainings to compare, in the format of W&B sweeps, so that W&B and Optuna can both run it.

    method: grid | random | bayes
    metric: {name: val/knn_top1, goal: maximize}            a name in summary.json: the value at the last epoch
    run_cap: 20                                              how many trainings; a grid needs none
    parameters:                                              flat dotted Hydra keys
      model.temperature: {values: [0.1, 0.2]}
      model.optimizer.lr: {min: 0.01, max: 1.0, distribution: log_uniform_values}
    command: ["${env}", "${interpreter}", -m, kindred, train, "${args_no_hyphens}", trainer.max_epochs=20]

What stands in `command` besides W&B's macros are overrides of every training. A file may hold several grids, one after
another as YAML documents, where not every combination makes sense; a later one needs only its parameters. Reading a file
imports neither library.
"""

import difflib
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from omegaconf import DictConfig

from kindred.callbacks.metric_names import has_labels, metric_names
from kindred.config import ConfigError, YamlLoader, compose, value_fault
from kindred.config_files import config_names, find_config
from kindred.files import write_atomically

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("categorical", "constant", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
ARGUMENTS = "${args_no_hyphens}"  # W&B's macro for key=value, which is what Hydra reads
SEED = "seed"
TRAIN, ONCE = ("kindred", "train"), "kindred.train"  # ONCE: the module that it was, which files of one's own may name


@dataclass(frozen=True)
class SweepFile:
    """A checked sweep file.

    Attributes:
        name: of the file, without its suffix.
        method, metric, goal, run_cap: as in the file; `run_cap` is None for "all of the grid".
        parts: of each grid, or of the one search: key -> its settings, with `distribution` filled in.
        base: overrides of every training.
    """

    name: str
    method: str
    metric: str
    goal: Literal["maximize", "minimize"]
    run_cap: int | None
    parts: tuple[dict[str, dict[str, Any]], ...]
    base: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """All parameters; of those in several grids, the values of all."""
        merged: dict[str, dict[str, Any]] = {}
        for part in self.parts:
            for key, settings in part.items():
                if key in merged and "values" in settings:
                    values = dict.fromkeys([*merged[key]["values"], *settings["values"]])
                    settings = {"values": list(values), "distribution": "categorical"}
                merged[key] = settings
        return merged

    def with_overrides(self, overrides: Sequence[str]) -> "SweepFile":
        """The same sweep with `overrides` in every training.

        Raises:
            ConfigError: one of them sets what the sweep varies.
        """
        for override in overrides:
            if (key := _key(override)) in self.parameters:
                raise ConfigError(f"{override}: sweep {self.name} varies {key}; change its parameters instead")
        return replace(self, base=(*self.base, *overrides))

    @property
    def varied(self) -> list[str]:
        """The parameters that are compared: all but the seed and constants."""
        return [k for k, p in self.parameters.items() if k != SEED and p["distribution"] != "constant"]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, seeds varying slowest, so that an early look sees all values."""
        combinations = [
            dict(zip(part, values, strict=True))
            for part in self.parts
            for values in itertools.product(*(_values(key, settings) for key, settings in part.items()))
        ]
        seeds = list(dict.fromkeys(c.get(SEED) for c in combinations))
        return sorted(combinations, key=lambda c: seeds.index(c.get(SEED)))

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """What Optuna samples from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        made = {}
        for key, settings in self.parameters.items():
            kind = settings["distribution"]
            if self.method == "grid":
                made[key] = CategoricalDistribution(_values(key, settings))
            elif kind in ("categorical", "constant"):
                made[key] = CategoricalDistribution(settings["values"])
            elif kind == "int_uniform":
                made[key] = IntDistribution(settings["min"], settings["max"])
            else:
                log, step = kind == "log_uniform_values", settings.get("q")
                made[key] = FloatDistribution(settings["min"], settings["max"], log=log, step=step)
        return made

    def for_wandb(self) -> list[dict[str, Any]]:
        """What W&B registers, one sweep for each grid, with the base overrides and each training logging to W&B."""
        command = ["${env}", "${interpreter}", "-m", "kindred", "train", *self.base, "logger=wandb", ARGUMENTS]
        sent = {"name": self.name, "method": self.method, "metric": {"name": self.metric, "goal": self.goal}}
        if self.run_cap is not None:
            sent["run_cap"] = self.run_cap
        parts = [{key: _as_written(settings) for key, settings in part.items()} for part in self.parts]
        return [{**sent, "parameters": part, "command": command} for part in parts]

    def trainings(self) -> dict[str, Any]:
        """What the sweep trains: all that it says but the metric, by which nothing is trained in another way."""
        return {key: value for key, value in asdict(self).items() if key not in ("metric", "goal")}

    def digest(self) -> str:
        """Six letters that differ where the trainings do."""
        return hashlib.sha256(json.dumps(self.trainings(), sort_keys=True).encode()).hexdigest()[:6]


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


def _values(key: str, settings: dict[str, Any]) -> list[Any]:
    """The values of a parameter in a grid."""
    if settings["distribution"] in ("categorical", "constant"):
        return settings["values"]
    if settings["distribution"] in ("int_uniform", "q_uniform"):
        step, span = settings.get("q", 1), settings["max"] - settings["min"]
        return [settings["min"] + step * i for i in range(int(span / step + 1e-9) + 1)]
    raise ConfigError(f"parameters.{key}: a grid needs values, or min and max with distribution q_uniform")


def _base(command: list[Any]) -> list[str]:
    """The overrides among the words of `command`."""
    words = [part for word in command for part in (TRAIN if word == ONCE else (str(word),))]
    pairs = list(itertools.pairwise(words))
    if TRAIN not in pairs or ARGUMENTS not in words:
        raise ConfigError(f"command is {' '.join(words)!r}: it must run kindred train with {ARGUMENTS}")
    return [word for word in words[pairs.index(TRAIN) + 2 :] if word != ARGUMENTS]


def _as_written(settings: dict[str, Any]) -> dict[str, Any]:
    return {"value": settings["values"][0]} if settings["distribution"] == "constant" else settings


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def sweep_directory(sweep: SweepFile, config: DictConfig) -> Path:
    """Where a sweep lives: the same for the same words, so that a second start finds what the first one did."""
    fixed = [str(config.choices[group]) for group in ("model", "data") if group not in sweep.parameters]
    return Path(config.log_dir) / "sweeps" / "-".join([sweep.name, *fixed, sweep.digest()])


def check(sweep: SweepFile) -> DictConfig:
    """Compose the first training, and once each value that names a file of configs/ or decides which metrics there are.

    Raises:
        ConfigError: keys, groups or names that do not exist, values of another type than their keys have, or out of their
            bounds, or a metric that no run will have: before anything is trained.
    """
    configs, wrong = [], []
    for part in sweep.parts:
        choices = {key: p["values"] if "values" in p else [p["min"]] for key, p in part.items()}
        first = {key: values[0] for key, values in choices.items()}
        configs.append(compose([*sweep.base, *as_overrides(first)]))
        wrong += [
            f"parameters.{said}"
            for key, parameter in part.items()
            for value in _samples(parameter)
            if (said := value_fault(configs[-1], key, value))
        ]
        _check_metric(sweep, configs[-1])
        for key, values in choices.items():
            for value in (
                values[1:] if key in configs[0].choices or key.startswith(("data.val_size", "callbacks")) else ()
            ):
                _check_metric(sweep, compose([*sweep.base, *as_overrides({**first, key: value})]))
    if wrong:
        raise ConfigError(*dict.fromkeys(wrong))
    return configs[0]


def _samples(parameter: dict[str, Any]) -> list[Any]:
    """The values of a parameter, or the ends of its range, as the command line of a training has them."""
    if "values" in parameter:
        return [yaml.load(v, YamlLoader) if isinstance(v, str) else v for v in parameter["values"]]
    kind = int if parameter["distribution"] == "int_uniform" else float
    return [kind(parameter[end]) for end in ("min", "max")]


def _check_metric(sweep: SweepFile, config: DictConfig) -> None:
    names = metric_names(config)
    if names is None or sweep.metric in names:
        return
    split, _, metric = sweep.metric.partition("/")
    elsewhere = [f"{other}/{metric}" for other in ("val", "test") if other != split and f"{other}/{metric}" in names]
    nearest = max(sorted(names), key=lambda name: difflib.SequenceMatcher(None, sweep.metric, name).ratio())
    why = ", since data.val_size is 0" if elsewhere == [f"test/{metric}"] else ""
    why = why or ("" if has_labels(config) else f", since the images in {config.data.source.root} have no labels")
    raise ConfigError(
        f"metric.name is {sweep.metric!r}, which the runs of sweep {sweep.name} will not have{why}; did you mean "
        f"{[*elsewhere, nearest][0]!r}? They will have {', '.join(sorted(names))}"
    )


def as_overrides(parameters: dict) -> list[str]:
    """Hydra overrides, such as `["model.temperature=0.2", "seed=1"]`."""
    texts = {None: "null", True: "true", False: "false"}
    return [f"{key}={texts[v] if v is None or isinstance(v, bool) else v}" for key, v in parameters.items()]


def write_sweep(directory: Path, sweep: SweepFile) -> None:
    """sweep.yaml in the sweep's directory; another metric than before is no other sweep.

    Raises:
        ConfigError: the directory belongs to another sweep.
    """
    path, said = directory / "sweep.yaml", json.loads(json.dumps(asdict(sweep)))
    if path.exists():
        before = yaml.safe_load(path.read_text())
        if {key: before.get(key) for key in sweep.trainings()} != {key: said[key] for key in sweep.trainings()}:
            raise ConfigError(f"{directory} holds another sweep (see {path.name} there): choose another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(said, sort_keys=False))
