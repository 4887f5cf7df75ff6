"""The trainings of a sweep as processes: each with its share of the machine, and none that outlives the sweep."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kindred.training.launch import SWEEP_PROCESS

TRAIN = (sys.executable, "-m", "kindred", "train")
PATIENCE = 60.0  # seconds in which a training may finish its step and write a checkpoint


def shares(jobs: int) -> list[dict[str, str]]:
    """Environment variables for each of `jobs` trainings side by side: its cores, and its GPUs where there are any.

    Two trainings that each use all cores would not be half as fast, but slower: their threads wait for each other. With
    more trainings than GPUs, several have to live on one.
    """
    if jobs == 1:
        return [{}]
    cores = max(1, len(os.sched_getaffinity(0)) // jobs)
    environments = [{"OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)} for _ in range(jobs)]
    if gpus := visible_gpus():
        for job, environment in enumerate(environments):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[job::jobs] or [gpus[job % len(gpus)]])
    return environments


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(gpu) for gpu, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@dataclass
class Training:
    """One training that runs: its run directory, what it prints, its process."""

    directory: Path
    process: subprocess.Popen

    @classmethod
    def start(cls, directory: Path, overrides: Sequence[str], environment: dict[str, str]) -> "Training":
        """Start a training in `directory`, or go on with the one that is there; it prints to `<directory>.log`."""
        going_on = (directory / "config.yaml").exists()
        arguments = [f"resume={directory}"] if going_on else [*overrides, f"run_dir={directory}"]
        directory.parent.mkdir(parents=True, exist_ok=True)
        # A job's ranks are none of a training's, which launches its own.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
        with log_of(directory).open("ab") as log:
            process = subprocess.Popen(
                [*TRAIN, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment, SWEEP_PROCESS: str(os.getpid())},
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then stops its trainings in order
            )
        return cls(directory, process)

    def ask_to_stop(self) -> None:
        """Have it write a checkpoint and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait for that, and if it takes too long, end it; the run goes on from its last checkpoint."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def log_of(directory: Path) -> Path:
    """What the training of `directory` printed."""
    return directory.with_name(f"{directory.name}.log")


def last_lines(directory: Path, count: int = 5) -> str:
    """The end of what the training of `directory` printed."""
    lines = log_of(directory).read_text(errors="replace").splitlines()
    return "\n".join([line[:500] for line in lines if line.strip()][-count:])
