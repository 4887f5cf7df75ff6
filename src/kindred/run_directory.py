"""Writing a run directory: its name, where it comes from, what it amounts to, and with which settings it goes on.

What is in it, and how to read it back, is in kindred.runs.
"""

import json
import os
import platform
import random
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, compose
from kindred.launch import rank
from kindred.metrics import read_metrics, summarise, write_atomically
from kindred.runs import load_run

if TYPE_CHECKING:
    from lightning import Trainer

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
