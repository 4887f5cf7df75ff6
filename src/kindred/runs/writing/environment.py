"""What a run directory says beside settings and metrics: where the run comes from, and what was left out of its data."""

import csv
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kindred.files import write_atomically

PACKAGES = ("kindred", "torch", "torchvision", "lightning", "torchmetrics", "lightly", "hydra-core", "numpy")


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
