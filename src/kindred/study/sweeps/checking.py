"""A sweep compared with the configuration that its trainings will have."""

import difflib
from typing import Any

import yaml
from omegaconf import DictConfig

from kindred.callbacks.metric_names import has_labels, metric_names
from kindred.config import ConfigError, YamlLoader, compose, value_fault
from kindred.study.sweeps.sweep_file import SweepFile, as_overrides


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
