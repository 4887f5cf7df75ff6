"""What a run directory holds, and how to read one back: `kindred.load_run(path)`.

    config.yaml         the resolved configuration: every number that ran
    environment.json    command, git commit and difference, versions, hardware, and each resume
    metrics.csv         one row per step that logged something
    summary.json        flat: a metric's name -> its value at the last epoch, base lines, best values
    checkpoints/        last.ckpt, best.ckpt
    figures/            views.png, curves.png, neighbours.png; of an evaluation confusion.png, map.png
    evaluation.json     of kindred.evaluate: accuracies on the test split (evaluation-<data>.json: on another data set's)
    export/             of kindred.export: the encoder as a file, with a model card
    wandb.json, wandb/  with LOGGER=wandb: the W&B run's id, project, entity and mode; what is logged of it

Importing this module imports no torch, so that listing and comparing runs is quick.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, build, nodes
from kindred.metrics import read_columns, read_metrics, summarise

if TYPE_CHECKING:
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
        "kindred.lars.LARS",
        "kindred.models.encoders.ConvNet",
        "kindred.models.encoders.resnet",
        "kindred.models.mocov2.MoCoV2",
        "kindred.models.nnclr.NNCLR",
        "kindred.models.simclr.SimCLR",
        "kindred.models.supcon.SupCon",
        "kindred.temperature.Cosine",
        "kindred.temperature.Learnable",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
    }
)


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
        return read_columns(self.path / "metrics.csv")

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
