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

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from omegaconf import DictConfig

from kindred.config import ConfigError
from kindred.files import write_atomically

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ARGUMENTS = "${args_no_hyphens}"  # W&B's macro for key=value, which is what Hydra reads
SEED = "seed"


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


def _values(key: str, settings: dict[str, Any]) -> list[Any]:
    """The values of a parameter in a grid."""
    if settings["distribution"] in ("categorical", "constant"):
        return settings["values"]
    if settings["distribution"] in ("int_uniform", "q_uniform"):
        step, span = settings.get("q", 1), settings["max"] - settings["min"]
        return [settings["min"] + step * i for i in range(int(span / step + 1e-9) + 1)]
    raise ConfigError(f"parameters.{key}: a grid needs values, or min and max with distribution q_uniform")


def _as_written(settings: dict[str, Any]) -> dict[str, Any]:
    return {"value": settings["values"][0]} if settings["distribution"] == "constant" else settings


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def sweep_directory(sweep: SweepFile, config: DictConfig) -> Path:
    """Where a sweep lives: the same for the same words, so that a second start finds what the first one did."""
    fixed = [str(config.choices[group]) for group in ("model", "data") if group not in sweep.parameters]
    return Path(config.log_dir) / "sweeps" / "-".join([sweep.name, *fixed, sweep.digest()])


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
