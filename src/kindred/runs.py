"""What a run directory holds, and how to read one back: `kindred.load_run(path)`.

    config.yaml         the resolved configuration: every number that ran
    environment.json    command, git commit and difference, versions, hardware, and each resume
    metrics.csv         one row per step that logged something
    summary.json        flat: a metric's name -> its value at the last epoch, base lines, best values
    checkpoints/        last.ckpt, best.ckpt
    figures/            views.png, curves.png, neighbours.png

Importing this module imports no torch, so that listing and comparing runs is quick.
"""

import json
import math
import os
import platform
import random
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, build, compose, nodes
from kindred.launch import rank
from kindred.metrics import read_metrics, write_atomically

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import nn

    from kindred.data.datamodule import MultiViewDataModule
    from kindred.models.contrastive import ContrastiveModule

# The classes that a run directory may name. A list of packages would not do: torch alone holds functions that run a shell.
TRUSTED = frozenset(
    {
        "kindred.data.datamodule.MultiViewDataModule",
        "kindred.data.imagefolder.ImageFolder",
        "kindred.data.sources.Digits",
        "kindred.data.sources.Photos",
        *(
            f"kindred.data.torchvision_sources.{n}"
            for n in ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST", "STL10", "SVHN")
        ),
        "kindred.data.views.MultiView",
        "kindred.data.views.View",
        "kindred.models.encoders.ConvNet",
        "kindred.models.encoders.resnet",
        "kindred.models.mocov2.MoCoV2",
        "kindred.models.nnclr.NNCLR",
        "kindred.models.simclr.SimCLR",
        "kindred.models.supcon.SupCon",
        "lightly.utils.lars.LARS",
        "torch.optim.AdamW",
        "torch.optim.SGD",
    }
)
PACKAGES = ("kindred", "torch", "torchvision", "lightning", "torchmetrics", "lightly", "hydra-core", "numpy")


def new_run_directory(root: Path, data: str, model: str, name: str | None = None) -> Path:
    """Create `root/<data>/<model>/<name>` and point `root/latest` to it; the name is a job's, or <timestamp>-<4 letters>."""
    letters = "".join(random.SystemRandom().choices(string.ascii_lowercase, k=4))
    path = root / data / model / (name or f"{time.strftime('%Y%m%d-%H%M%S')}-{letters}")
    path.mkdir(parents=True, exist_ok=name is not None)
    link = root / f".latest-{letters}"
    link.symlink_to(path.relative_to(root), target_is_directory=True)
    os.replace(link, root / "latest")
    return path


def describe_environment() -> dict[str, Any]:
    """Command, code, versions and hardware of this process, for environment.json."""
    import torch

    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.rstrip("\n")

    return {
        "command": " ".join(["python", "-m", "kindred.train", *sys.argv[1:]]) if sys.argv else "",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_commit": git("rev-parse", "HEAD"),
        "git_diff": git("diff", "HEAD"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def write_environment(run_directory: Path) -> None:
    """environment.json of a new run; of a run that goes on, one more entry under `resumes`."""
    path = run_directory / "environment.json"
    now = describe_environment()
    if path.exists():
        first = json.loads(path.read_text())
        now = {**first, "resumes": [*first.get("resumes", []), now]}
    write_atomically(path, json.dumps(now, indent=2) + "\n")


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The flat summary of a run's metrics: last values, base lines, and the best of the scheduled evaluations.

    A metric's name holds its last value; `untrained/<name>` an accuracy before the first step; `<split>/<name>_best` an
    accuracy's maximum over the scheduled evaluations, the untrained one left out.
    """
    summary: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            split, _, metric = name.partition("/")
            accuracy = "_top" in metric and split in ("val", "test")
            if accuracy and row["step"] == 0:
                summary[f"untrained/{metric}"] = value
                continue
            summary[name] = value
            if accuracy:
                summary[f"{name}_best"] = max(value, summary.get(f"{name}_best", -math.inf))
    return summary


def write_summary(directory: Path, trainer: "Trainer") -> dict[str, float]:
    """summary.json: what metrics.csv says, and the run's epochs, seconds, speed and skipped files."""
    from kindred.callbacks.train_metrics import TrainMetrics

    summary = summarise(read_metrics(directory / "metrics.csv"))
    summary["epochs"] = trainer.current_epoch
    for callback in trainer.callbacks:
        if isinstance(callback, TrainMetrics):
            summary["seconds"], summary["images_per_second"] = callback.seconds, callback.images_per_second
    summary["skipped_files"] = getattr(trainer.datamodule.source, "skipped", 0)
    if trainer.is_global_zero:
        write_atomically(directory / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def resumed_config(directory: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run that goes on: its own, but for devices and trainer settings.

    Args:
        directory: the run directory.
        overrides: `trainer.<key>=<value>`, or `trainer=<name>` for another choice of devices.

    Raises:
        ConfigError: an override that would make it another experiment, or fewer epochs than were asked for before.
        FileNotFoundError: `directory` holds no run.
    """
    config = load_run(directory).config
    for override in sorted(overrides, key=lambda text: not text.startswith("trainer=")):  # which says less than a key
        key, _, value = override.partition("=")
        if key == "trainer":
            fresh = compose([override]).trainer
            devices = ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm")
            config.trainer.update({name: fresh[name] for name in devices})
        elif key.startswith("trainer.") and key.removeprefix("trainer.") in config.trainer:
            before = OmegaConf.select(config, key)
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
            if key == "trainer.max_epochs" and config.trainer.max_epochs != before:
                if config.trainer.max_epochs < before:
                    raise ConfigError(f"{override}: the run was to have {before} epochs; a resume may only raise that")
                if rank() == 0:
                    print(
                        f"trainer.max_epochs {before} -> {value}: from here on the schedules are those of the longer run"
                    )
        else:
            raise ConfigError(
                f"{override}: a run goes on as it began; only trainer=... and the keys of trainer may change on resume "
                f"({', '.join(str(k) for k in config.trainer if k != '_target_')}). For anything else start a new run"
            )
    config.resume = str(directory)
    return config


def load_encoder_weights(encoder: "nn.Module", path: Path) -> None:
    """Start `encoder` from a run directory (its last checkpoint) or a weights file.

    A file may hold the encoder's state dict, or a checkpoint with one under `state_dict` and the prefix `encoder.`.

    Raises:
        ValueError: the weights are not of this architecture.
    """
    state = read_checkpoint(path / "checkpoints" / "last.ckpt" if path.is_dir() else path)
    state = state.get("state_dict", state)
    state = {
        name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")
    } or state
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    if wrong := sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)):
        name = wrong[0]
        raise ValueError(
            f"init_from: {path} does not fit the encoder in {len(wrong)} of {len(expected)} tensors; the first is {name}: "
            f"{given.get(name, 'absent')} in the file, {expected.get(name, 'absent')} in the encoder. Choose the encoder "
            "that the weights come from (ENCODER=...)"
        )
    encoder.load_state_dict(state)


class Run:
    """A run directory, read back. Nothing in it is executed: classes come from an exact list, weights are only tensors.

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
            raise FileNotFoundError(f"{self.path} is no run directory: it has no config.yaml")

    @cached_property
    def config(self) -> DictConfig:
        """The resolved configuration of the run."""
        return OmegaConf.load(self.path / "config.yaml")

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """metrics.csv as columns [rows] float64, NaN where a row has no value."""
        rows = read_metrics(self.path / "metrics.csv")
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}

    @cached_property
    def summary(self) -> dict[str, float]:
        """summary.json; of a run that has not ended, what its metrics say so far."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else summarise(read_metrics(self.path / "metrics.csv"))

    @cached_property
    def module(self) -> "ContrastiveModule":
        """The trained module with the weights of last.ckpt, in eval mode, on the CPU."""
        module = build_module(self._trusted("model", "encoder"))
        module.load_state_dict(read_checkpoint(self.path / "checkpoints" / "last.ckpt")["state_dict"])
        return module.eval()

    @property
    def encoder(self) -> "nn.Module":
        """The trained encoder in eval mode: normalised images [B, C, H, W] -> features [B, F]."""
        return self.module.encoder

    def datamodule(self) -> "MultiViewDataModule":
        """A new DataModule with the run's settings; call `prepare_data()` and `setup()` before use."""
        return build_datamodule(self._trusted("data", "views"))

    def _trusted(self, *parts: str) -> DictConfig:
        """The configuration, after a check of every class that `parts` name, before any of them is imported."""
        for part in parts:
            for path, node in nodes(self.config[part], part):
                if node._target_ not in TRUSTED | self.trust:
                    raise ConfigError(
                        f"{path}._target_: {node._target_!r} of {self.path / 'config.yaml'} is not among the classes that "
                        f"may be built from a run directory; if you trust it: load_run(path, trust=[{node._target_!r}])"
                    )
        return self.config


def load_run(path: str | Path, trust: Sequence[str] = ()) -> Run:
    """Read a run directory back; see `Run`."""
    return Run(path, trust)


def build_module(config: DictConfig) -> "ContrastiveModule":
    """The method with its encoder, as `config` says."""
    return build(config, "model", encoder=build(config, "encoder"))


def build_datamodule(config: DictConfig) -> "MultiViewDataModule":
    """The DataModule with its views, as `config` says."""
    return build(config, "data", views=build(config, "views"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint or weights file on the CPU; tensors, numbers, strings, lists and dicts only.

    Raises:
        FileNotFoundError: there is no such file.
        pickle.UnpicklingError: it holds something else, which is not executed.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    return torch.load(path, map_location="cpu", weights_only=True)
