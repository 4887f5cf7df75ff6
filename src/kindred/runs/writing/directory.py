"""Writing a run directory: its name, its place, its beginning.

What is in it, and how to read it back, is in kindred.runs.run.
"""

import os
import random
import string
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError
from kindred.errors import UnwritableError
from kindred.files import write_atomically
from kindred.runs.reading.signature import signed, unsigned
from kindred.runs.writing.claim import Claim
from kindred.runs.writing.environment import write_environment
from kindred.training import launch


def new_name() -> str:
    """<timestamp>-<4 letters>"""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{''.join(random.SystemRandom().choices(string.ascii_lowercase, k=4))}"


def point_latest(root: Path, directory: Path) -> None:
    """Have `root/latest` lead to `directory`, which is below `root`."""
    link = root / f".latest-{directory.name}"
    link.symlink_to(directory.relative_to(root), target_is_directory=True)
    os.replace(link, root / "latest")


def saved_form(config: DictConfig) -> str:
    """config.yaml: the same whether a run starts or goes on."""
    return OmegaConf.to_yaml(OmegaConf.merge(config, {"resume": None}))


def run_directory(config: DictConfig) -> Path:
    """The directory to write to, the same on every rank: of the run that goes on, the one that was asked for, or a new one.

    It is not made yet: see `begin`. In a job of torchrun or Slurm its name comes from the job's id and the settings, so
    that ranks and nodes agree on it; if it is there already, with the same settings, the job was requeued, and the run goes
    on where it stopped.
    """
    if (handed_down := launch.handed_down()) and not launch.met():
        return handed_down
    directory = Path(config.resume) if config.resume is not None else named_directory(config)
    if directory.is_symlink():  # logs/latest, which another run may move
        directory = directory.parent / directory.readlink()
    if launch.met():  # train() for the second time in this process: rank 0 tells
        import torch.distributed as dist

        box = [directory]
        dist.broadcast_object_list(box)
        directory = box[0]
    if launch.rank() == 0:
        launch.hand_down(directory)
    return directory


def check_place(config: DictConfig) -> None:
    """Raise an UnwritableError where no run directory can be made, before anything else takes its time."""
    key = "log_dir" if config.run_dir is None else "run_dir"
    asked = Path(config[key]).absolute()
    place = next(path for path in (asked, *asked.parents) if os.path.lexists(path))
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UnwritableError(f"{key}: {config[key]}: {place} is no folder that can be written to")


def named_directory(config: DictConfig) -> Path:
    """The directory of a run that does not say `resume`; in a job it may be there already."""
    job = launch.job()
    if config.run_dir is None:
        name = launch.job_run_name(job, saved_form(config)) if job else new_name()
        return Path(config.log_dir, config.choices.data, config.choices.model, name)
    directory, saved = Path(config.run_dir), Path(config.run_dir) / "config.yaml"
    requeued = job is not None and saved.exists() and unsigned(saved.read_text()) == saved_form(config)
    if launch.rank() == 0 and saved.exists() and not requeued:
        raise ConfigError(f"run_dir: {directory} already holds a run; to go on with it: resume={directory}")
    return directory


def remove_remains(directory: Path) -> None:
    """Delete what a killed process had begun to write; this one has claimed the directory."""
    files = ("config", "environment", "metrics", "summary", "skipped", "wandb", "data")
    for pattern in (*(f".{name}.*.tmp" for name in files), "checkpoints/.*.tmp"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def put_aside(checkpoints: Path, last: Path | None) -> None:
    """Keep a damaged last.ckpt, from which no run goes on, from becoming previous.ckpt."""
    if last is not None and (damaged := checkpoints / "last.ckpt") != last and damaged.exists():
        damaged.replace(checkpoints / "damaged.ckpt")


def begin(config: DictConfig, claim: Claim, last: Path | None) -> None:
    """Make the run directory, and say in it what runs; of a new run below log_dir, move `latest` there.

    Called once there is nothing left that a check could find: a mistyped setting or a wrong data folder leaves no empty
    run behind, and `latest` on the run before. `last` is the checkpoint from which the run goes on.
    """
    directory = claim.directory
    directory.mkdir(parents=True, exist_ok=True)
    claim.take()
    put_aside(directory / "checkpoints", last)
    if config.resume is None and config.run_dir is not None:
        named_directory(config)  # another process may have begun and ended a run there by now
    write_atomically(directory / "config.yaml", signed(saved_form(config)))
    write_environment(directory)
    if config.resume is None and config.run_dir is None:
        point_latest(Path(config.log_dir), directory)
