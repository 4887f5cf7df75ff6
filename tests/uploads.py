"""What a run has sent to a W&B server, or can still send, compared with its files; a W&B that is this test's alone."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_wandb_server import FakeWandbServer
from omegaconf import OmegaConf
from PIL import Image

from kindred.tracking.metrics_csv import read_metrics

STEP = "trainer/global_step"


def wandb_of_its_own(monkeypatch, folder):
    """No setting, key or server of this machine; a key that only the servers of these tests take."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in (("HOME", folder), ("NETRC", folder / "netrc"), ("WANDB_CONFIG_DIR", folder / "config")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@contextmanager
def refusing():
    """The address of a port that nobody listens at, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def said(capfd):
    """The lines about W&B on the terminal."""
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B: ")]


def upload(line, server=None):
    """Run the command that a line ends with; returns the one run that a server (a new one) then has."""
    if server is None:
        with FakeWandbServer() as server:
            return upload(line, server)
    command = line.rpartition(": ")[2]
    assert command.startswith("wandb sync ")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    online = os.environ | {"PATH": path, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online"}
    done = subprocess.run(command, shell=True, env=online, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    return run


def by_step(history):
    """What a history says of each step, the last word on each metric; W&B's own columns left out."""
    steps = {}
    for row in history:
        steps.setdefault(row[STEP], {}).update({k: v for k, v in row.items() if k[0] != "_"})
    return steps


def assert_holds(run, directory):
    """Every metric of every row of metrics.csv, the configuration, the summary and the pictures."""
    steps = by_step(run["history"])
    rows = read_metrics(directory / "metrics.csv")
    assert len(rows) > 2
    for row in rows:
        assert {name: steps[row["step"]][name] for name in row.keys() - {"step"}} == pytest.approx(
            {name: value for name, value in row.items() if name != "step"}, rel=1e-12
        )
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    assert {name: entry["value"] for name, entry in run["config"].items() if name != "_wandb"} == config
    summary = json.loads((directory / "summary.json").read_text())
    assert {name: run["summary"][name] for name in summary} == pytest.approx(summary, rel=1e-12)
    assert "val/knn_top1_best" in summary
    for name in ("views", "curves", "neighbours"):
        image = run["summary"][f"figures/{name}"]
        assert (image["width"], image["height"]) == Image.open(directory / "figures" / f"{name}.png").size
        assert image["path"] in run["files"]
