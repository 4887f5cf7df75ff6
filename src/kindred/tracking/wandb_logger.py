"""W&B next to metrics.csv: `LOGGER=wandb`. What talks to W&B is a process of its own, kindred.tracking.wandb_process."""

import contextlib
import json
import os
import pickle
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from kindred.errors import ConfigError
from kindred.tracking.wandb_session import STEP, write_run_name

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # of wandb.Settings
WAIT = 10.0  # seconds that a training waits for W&B at its end; it waits nowhere else
UPLOAD = 600.0  # seconds that an artifact's upload may go on after that, in the background


def check_mode() -> None:
    """Refuse a WANDB_MODE that wandb does not know, with which it would log nothing.

    Raises:
        ValueError: it is one.
    """
    if (mode := os.environ.get("WANDB_MODE", "online")) not in MODES:
        raise ConfigError(
            f"WANDB_MODE is {mode!r}: choose {', '.join(MODES[:3])} (wandb also knows {', '.join(MODES[3:])})"
        )


class WandbProcess:
    """The sending end: whatever happens to W&B, nothing is raised, and only `finish` waits.

    Args:
        directory: the run directory.
        settings: see `kindred.tracking.wandb_session.Session`.
        upload: seconds that the upload of large files may take after the end.
    """

    def __init__(self, directory: str | Path, settings: dict[str, Any], upload: float = 0.0) -> None:
        self.folder, self.upload = Path(directory) / "wandb", upload
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kindred.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training
        )
        assert self.process.stdin is not None  # a pipe
        self.input = self.process.stdin
        start = {"directory": str(directory), "settings": settings, "command": sys.argv, "process": os.getpid()}
        self._write(start | {"seconds": 0.4 * WAIT, "upload": upload})  # to connect, and again to upload

    def send(self, method: str, *arguments: Any) -> None:
        """Have a method of `kindred.tracking.wandb_session.Session` called."""
        self._write((method, *arguments))

    def _write(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, and said why, or finish() will tell
            pickle.dump(message, self.input)
            self.input.flush()

    def finish(self, exit_code: int = 0) -> None:
        """End the part of the run that this process logs; after `WAIT` seconds the process is left to itself."""
        self.send("finish", exit_code)
        with contextlib.suppress(OSError):
            self.input.close()
        try:
            done = self.process.wait(WAIT) == 0
        except subprocess.TimeoutExpired:
            done = False
        if not done:
            command = shlex.join(["wandb", "sync", "--include-online", str(self.folder)])
            how = f"not done within {WAIT:g} s ({self.folder / 'output.log'}); to upload later"
            if self.upload:
                how = f"the upload goes on without the training, for up to {self.upload:g} s; if it is cut"
            print(f"W&B: {how}: {command}", file=sys.stderr)


class WandbLogger(Logger):
    """Every row of metrics.csv as a row of the W&B run, over `trainer/global_step` and `epoch`.

    Without a key, a network or a server that answers, the run goes on and is logged offline, in `<directory>/wandb`, which
    is said once with the command that uploads it. `<directory>/wandb.json` names the W&B run, so that a resumed run goes
    on in it. Steps that a killed run repeats after its checkpoint are logged again: W&B keeps both rows, of equal values
    but for the speed. Only rank zero logs.

    Args:
        directory: the run directory.
        project, entity, group, job_type, tags: of the W&B run; entity `None` is the key's default one.
        artifacts: upload last and best checkpoint, the figures, config.yaml and data.json of a run that came to its end, as
            the artifact `run-<id>`, whose metadata say what it comes from. The training waits no longer for it.
    """

    name = "wandb"
    version = ""

    def __init__(
        self,
        directory: str,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        tags: Sequence[str] = (),
        artifacts: bool = False,
    ) -> None:
        super().__init__()
        check_mode()
        if not project or set(project) & set("/\\#?%:") or len(project) > 128:
            raise ConfigError(
                f"logger.wandb.project: {project!r} must be 1 to 128 characters, none of them of / \\ # ? % :"
            )
        self.directory, self.artifacts = Path(directory), artifacts
        self.settings = {
            "project": project,
            "entity": entity,
            "name": self.directory.name,
            "group": group,
            "job_type": job_type,
            "tags": list(tags),
        }
        self._process: WandbProcess | None = None

    def _send(self, method: str, *arguments: Any) -> None:
        if self._process is not None:
            self._process.send(method, *arguments)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Start logging, with `params` as the run's configuration."""
        if self._process is not None or os.environ.get("WANDB_MODE") == "disabled":
            return
        self.init_from = params.get("init_from")
        if not (self.directory / "wandb.json").exists():
            name = {"id": secrets.token_hex(4), "project": self.settings["project"], "entity": self.settings["entity"]}
            write_run_name(self.directory, name | {"mode": None})
        upload = UPLOAD if self.artifacts else 0.0
        self._process = WandbProcess(self.directory, self.settings | {"config": params}, upload)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._send("log", metrics | {STEP: step or 0})

    def log_neighbours(
        self,
        queries: np.ndarray,
        query_names: Sequence[str],
        neighbours: np.ndarray,
        neighbour_names: Sequence[Sequence[str]],
        similarities: np.ndarray,
    ) -> None:
        """The nearest neighbours as a table; arguments as of `kindred.tracking.figures.draw_neighbours`."""
        self._send("log_neighbours", queries, query_names, neighbours, neighbour_names, similarities)

    def finish(self, summary: dict[str, float]) -> None:
        """End the run with its summary and the figures of its directory."""
        self._send("update_summary", summary)
        self._send("log_images", {f"figures/{p.stem}": str(p) for p in sorted(self.directory.glob("figures/*.png"))})
        if self.artifacts:
            patterns = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "figures/*.png", "config.yaml", "data.json")
            paths = [path for pattern in patterns for path in sorted(self.directory.glob(pattern))]
            files = {str(path.relative_to(self.directory)): str(path) for path in paths}
            self._send("log_artifact", files, self._lineage(summary))
        self._finish(0)

    def _lineage(self, summary: dict[str, float]) -> dict[str, Any]:
        """What the weights come from: code, command, the run's start and its data, in an artifact's metadata."""
        said = {}
        for name in ("environment", "data"):
            with contextlib.suppress(OSError, ValueError):
                said |= json.loads((self.directory / f"{name}.json").read_text())
        kept = ("command", "git_commit", "started", "source", "splits")
        lineage = {key: said[key] for key in kept if key in said}
        for split in lineage.get("splits", {}).values():
            split.pop("sample_times", None)  # W&B keeps few hundred values
        return lineage | {"init_from": self.init_from, "step": summary.get("step")}

    def finalize(self, status: str) -> None:
        """End the run if it failed or was stopped. Lightning calls this after each of its loops."""
        if status != "success":
            self._finish(1)

    def _finish(self, exit_code: int) -> None:
        if self._process is not None:
            self._process.finish(exit_code)
            self._process = None


def add_to_run(directory: Path, metrics: dict[str, float], images: dict[str, Path], job_type: str = "evaluate") -> None:
    """Add results to the W&B run of a run directory; nothing if it has none.

    Args:
        directory: the run directory.
        metrics: name -> value, for the run's summary.
        images: name -> image file.
        job_type: what the run is from now on, so that evaluated runs can be told from others.
    """
    if not (directory / "wandb.json").exists():
        return
    process = WandbProcess(directory, {"job_type": job_type})
    process.send("update_summary", metrics)
    process.send("log_images", {name: str(path) for name, path in images.items()})
    process.finish()
