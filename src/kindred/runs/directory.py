"""Writing a run directory: its name, where it comes from, what it amounts to, and with which settings it goes on.

What is in it, and how to read it back, is in kindred.runs.run.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
import platform
import random
import socket
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from kindred.config import ConfigError, compose
from kindred.errors import UnwritableError
from kindred.files import write_atomically
from kindred.runs.run import load_run
from kindred.runs.trust import PARTS, signed, unsigned
from kindred.training import launch

PACKAGES = ("kindred", "torch", "torchvision", "lightning", "torchmetrics", "lightly", "hydra-core", "numpy")


def new_name() -> str:
    """<timestamp>-<4 letters>"""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{''.join(random.SystemRandom().choices(string.ascii_lowercase, k=4))}"


def point_latest(root: Path, directory: Path) -> None:
    """Have `root/latest` lead to `directory`, which is below `root`."""
    link = root / f".latest-{directory.name}"
    link.symlink_to(directory.relative_to(root), target_is_directory=True)
    os.replace(link, root / "latest")


class Claim:
    """One process at a time writes a run directory; the ranks of a run are one, of which rank zero takes it.

    A record lock on `<directory>/.lock`, which holds who took it. The kernel gives it back however the process ends, and
    loader workers that were forked do not inherit it.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / ".lock"
        self.file: IO[str] | None = None

    def take(self) -> None:
        """Lock the directory, which exists, unless that is done.

        Raises:
            ConfigError: another process has it.
        """
        here = f" on {socket.gethostname()}"
        while self.file is None:
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run lasts
            file.seek(0)
            holder = file.read().strip()
            elsewhere = holder and not holder.endswith(here)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.close()
                gone = f"; if that machine is gone for good, delete {self.path}" if elsewhere else ""
                raise ConfigError(
                    f"{self.directory}: {holder or 'another process'} is writing to this run; stop it first{gone}"
                ) from None
            except OSError:  # a file system without locks
                pass
            if not self.path.exists() or not os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                file.close()  # whose it was deleted it between the lines above
                continue
            if elsewhere:
                print(f"{self.path}: {holder} did not end in order; if it still runs, stop it", file=sys.stderr)
            file.truncate(0)
            file.write(f"process {os.getpid()}{here}\n")
            file.flush()
            self.file = file

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None


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
        "command": " ".join(["python", "-m", "kindred", "train", *sys.argv[1:]]) if sys.argv else "",
        "directory": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_commit": git("rev-parse", "HEAD"),
        "git_diff": git("diff", "HEAD"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "openmp": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_", "KMP_"))},
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


def write_skipped(run_directory: Path, files: Sequence[tuple[str, str]]) -> None:
    """skipped.csv, if a source left out any: paths below its root, and why."""
    path = run_directory / "skipped.csv"
    if files:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("path", "reason"), *sorted(files)])
        write_atomically(path, table.getvalue())


def resumed_config(directory: Path, overrides: Sequence[str], trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of a run that goes on: its own, but for devices and trainer settings.

    Args:
        directory: the run directory.
        overrides: `trainer.<key>=<value>`, or `trainer=<name>` for another choice of devices, and the order in memory that
            it has; precision and all else stay the run's.
        trust: classes of one's own that someone else's run may name.

    Raises:
        ConfigError: an override that would make it another experiment, or fewer epochs than were asked for before; a
            class that is not trusted.
        FileNotFoundError: `directory` holds no run.
    """
    run = load_run(directory, trust)
    config = run.trusted(*PARTS)
    for override in sorted(overrides, key=lambda text: not text.startswith("trainer=")):  # which says less than a key
        key, _, value = override.partition("=")
        if key == "trainer":
            fresh = compose([override]).trainer
            # The order in memory too: shards have one of their own.
            devices = ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "channels_last")
            config.trainer.update({name: fresh[name] for name in devices})
        elif key.startswith("trainer.") and key.removeprefix("trainer.") in config.trainer:
            before = OmegaConf.select(config, key)
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value)
            epochs = config.trainer.max_epochs  # of any type yet
            if key == "trainer.max_epochs" and isinstance(epochs, int) and epochs != before:
                if epochs < before:
                    raise ConfigError(f"{override}: the run was to have {before} epochs; a resume may only raise that")
                if launch.rank() == 0:
                    print(
                        f"trainer.max_epochs {before} -> {value}: from here on the schedules are those of the longer run"
                    )
        else:
            raise ConfigError(
                f"{override}: a run goes on as it began; only trainer=... and the keys of trainer may change on resume "
                f"({', '.join(str(k) for k in config.trainer if k != '_target_')}). For anything else start a new run"
            )
    run.find_data(config)
    config.resume = str(directory)
    return config


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
