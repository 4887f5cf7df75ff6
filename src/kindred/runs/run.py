"""What a run directory holds, and how to read one back: `kindred.load_run(path)`.

    config.yaml         the resolved configuration: every number that ran; its last line says who started the run
    environment.json    command, git commit and difference, versions, hardware, and each resume
    data.json, .npz     which data: digests of each split's files, and the list of them (kindred.runs.fingerprint)
    metrics.csv         one row per step that logged something
    summary.json        flat: a metric's name -> its value at the last epoch, base lines, best values
    skipped.csv         files that the data's source left out, and why, if it did
    checkpoints/        last.ckpt, best.ckpt, and previous.ckpt, the way back if last.ckpt is damaged
    .lock               while a process writes here: which one
    figures/            views.png, curves.png, neighbours.png; of an evaluation confusion.png, map.png
    evaluation.json     of `kindred evaluate`: accuracies on the test split (evaluation-<data>.json: on another data set's)
    tokenizer.json      of texts: what made tokens of them
    export/             of `kindred export`: the encoder as a file, with a model card
    wandb.json, wandb/  with LOGGER=wandb: the W&B run's id, project, entity and mode; what is logged of it

Importing this module imports no torch, so that listing and comparing runs is quick.
"""

import json
import math
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, build
from kindred.errors import AbsentError
from kindred.runs.fingerprint import Record, read_record
from kindred.runs.reading.signature import is_signed
from kindred.runs.reading.trust import check_classes, read_settings
from kindred.runs.reading.weights import read_training
from kindred.tracking.metrics_csv import read_columns, read_metrics, summarise
from kindred.training import launch

if TYPE_CHECKING:
    from torch import nn

    from kindred.data.datamodule import DataModule
    from kindred.models.contrastive import ContrastiveModule


class Run:
    """A run directory, read back. Nothing in it is executed: classes come from an exact list, weights are only tensors.

    Of a run that this user started the classes are their own, and all are built.

    Args:
        path: the run directory.
        trust: further classes that its config.yaml may name, such as `("my_package.MyEncoder",)`.

    Raises:
        FileNotFoundError: `path` holds no config.yaml.
    """

    def __init__(self, path: str | Path, trust: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.trust = frozenset(trust)
        if not (self.path / "config.yaml").is_file():
            raise AbsentError(f"{self.path} is no run directory: it has no config.yaml")

    @cached_property
    def _text(self) -> str:
        """config.yaml, read once: what is checked is what is built."""
        try:
            return (self.path / "config.yaml").read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path / 'config.yaml'}: {error}") from error

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration of the run, as plain data.

        Raises:
            ConfigError: config.yaml holds something else.
        """
        return read_settings(self._text, str(self.path / "config.yaml"))

    @cached_property
    def config(self) -> DictConfig:
        """The resolved configuration of the run. It holds no interpolation; what it names is not checked yet."""
        return OmegaConf.create(self.settings)

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """metrics.csv as columns [rows] float64, NaN where a row has no value."""
        return read_columns(self.path / "metrics.csv")

    @cached_property
    def summary(self) -> dict[str, float]:
        """summary.json; of a run that has not ended, or goes on beyond that, what its metrics say so far."""
        path, rows = self.path / "summary.json", read_metrics(self.path / "metrics.csv")
        written = json.loads(path.read_text()) if path.exists() else None
        return (
            summarise(rows)
            if written is None or (rows and rows[-1]["step"] > written.get("step", math.inf))
            else written
        )

    @cached_property
    def data(self) -> Record | None:
        """data.json: which data the run is of, if it says so."""
        return read_record(self.path)

    @property
    def module(self) -> "ContrastiveModule":
        """The trained module with the weights of last.ckpt, in eval mode, on the CPU."""
        return self._trained[0]

    @property
    def step(self) -> int:
        """The optimiser steps behind the weights of `module`."""
        return self._trained[1]

    @cached_property
    def _trained(self) -> "tuple[ContrastiveModule, int]":
        """What last.ckpt holds, read once: a run that goes on meanwhile does not mix two of them."""
        config, last = self.trusted("model", "encoder"), self.path / "checkpoints" / "last.ckpt"
        module = build_module(without_weights(config))
        checkpoint = read_training(last)
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise ConfigError(
                f"{last} is not of the model in config.yaml: {' '.join(str(error).split())[:300]}"
            ) from error
        return module.eval(), int(checkpoint["global_step"])

    @property
    def encoder(self) -> "nn.Module":
        """The trained encoder in eval mode: normalised images [B, C, H, W] -> features [B, F]."""
        return self.module.encoder

    def datamodule(self) -> "DataModule":
        """A new DataModule with the run's settings; call `prepare_data()` and `setup()` before use."""
        config = self.trusted("data", "views").copy()
        self.find_data(config)
        datamodule = build_datamodule(config)
        datamodule.adopt(self.path)
        return datamodule

    def find_data(self, config: DictConfig) -> None:
        """Have a relative data folder in `config` start where this run was started, if it is there; else, that is said."""
        key = "root" if OmegaConf.select(config, "data.source.path") is None else "path"
        started, root = self._started_in, OmegaConf.select(config, f"data.source.{key}")
        if started is None or not isinstance(root, str) or (there := started / root) == Path.cwd() / root:
            return
        if there.exists():
            config.data.source[key] = str(there)
            if isinstance(cache := config.data.source.get("cache_dir"), str):
                config.data.source.cache_dir = str(started / cache)
        elif launch.rank() == 0 and key == "root":  # a path may be a name on the hub
            print(
                f"data.source.root: {root} is not in {started}, where the run was started: it is read, or made, in "
                f"{Path.cwd()}",
                file=sys.stderr,
            )

    @property
    def _started_in(self) -> Path | None:
        """The working directory that the run was started in, if it is known."""
        try:
            started = json.loads((self.path / "environment.json").read_text())["directory"]
        except (OSError, ValueError, LookupError, TypeError):  # an older run, or a file of someone else's
            return None
        return Path(started) if isinstance(started, str) else None

    def trusted(self, *parts: str) -> DictConfig:
        """The configuration, after a check of every class that `parts` name, before any of them is imported.

        Raises:
            ConfigError: one that is neither known at its place nor trusted.
        """
        if not is_signed(self._text):
            check_classes(self.settings, parts, str(self.path / "config.yaml"), self.trust)
        return self.config


def load_run(path: str | Path, trust: Sequence[str] = ()) -> Run:
    """Read a run directory back; see `Run`."""
    return Run(path, trust)


def build_module(config: DictConfig) -> "ContrastiveModule":
    """The method with its encoder, as `config` says."""
    return build(config, "model", encoder=build(config, "encoder"))


def without_weights(config: DictConfig) -> DictConfig:
    """`config` for an encoder whose own weights follow: others need not be there, or be downloaded, before."""
    config = config.copy()
    if "pretrained" in config.encoder:
        config.encoder.pretrained = False
    return config


def build_datamodule(config: DictConfig) -> "DataModule":
    """The DataModule with its views, as `config` says."""
    return build(config, "data", views=build(config, "views"))
