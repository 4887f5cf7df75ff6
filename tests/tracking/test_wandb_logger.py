"""W&B gets what metrics.csv has; without W&B a run loses neither time nor data. What is uploaded is read by wandb itself."""

import fcntl
import hashlib
import json
import multiprocessing
import re
import signal
import sys
import time

import lightly.models.modules  # noqa: F401  # with it timm, which imports wandb where it is installed
import numpy as np
import pytest
from children import DIGITS, At, add_callback, in_child, kill_self, resume, start
from fake_wandb_server import FakeWandbServer
from PIL import Image
from rank_helpers import start_ranks
from uploads import STEP, assert_holds, refusing, said, upload, wandb_of_its_own

from kindred.tracking import wandb_logger
from kindred.tracking.wandb_logger import WandbLogger, add_to_run


@pytest.fixture(autouse=True)
def wandb_alone(monkeypatch, tmp_path):
    wandb_of_its_own(monkeypatch, tmp_path)


@pytest.fixture
def server(monkeypatch):
    with FakeWandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def test_a_run_without_a_key_is_logged_offline_and_uploaded_later(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    run = tmp_path / "the run"
    imported = multiprocessing.Value("i", 0)

    def prepare():
        for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:  # another test may have
            del sys.modules[name]
        add_callback(At(12, lambda: setattr(imported, "value", 1 + ("wandb" in sys.modules))))

    assert start(run, ["logger=wandb"], prepare) == 0
    assert imported.value == 1  # and wandb is not, in the training itself
    (line,) = said(capfd)
    assert "offline (No API key configured" in line
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    uploaded = upload(line)
    assert_holds(uploaded, run)
    assert uploaded["exit_code"] == 0
    first = uploaded["upserts"][0]
    assert (first["project"], first["jobType"], first["displayName"]) == ("kindred", "train", "the run")
    assert first["tags"] == ["simclr", "digits", "convnet"]
    name = json.loads((run / "wandb.json").read_text())
    assert name == {"id": first["name"], "project": "kindred", "entity": None, "mode": "offline"}


def test_the_neighbours_are_a_table(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    red, green, grey = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8), np.ones((1, 4, 5), np.uint8)
    red[0], green[1] = 255, 1

    def log():
        logger = WandbLogger(str(tmp_path), "tables")
        logger.log_hyperparams({})
        logger.log_neighbours(
            red[None], ["cat"], np.stack([red, green])[None], [["cat", "dog"]], np.array([[0.75, 0.5]])
        )
        logger.log_neighbours(grey[None], ["cat"], grey[None, None], [["cat"]], np.array([[1.0]]))
        logger.finish({})

    assert in_child(log) == 0
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in tmp_path.glob("wandb/artifacts/staging/*")}
    tables = [json.loads(path.read_text()) for path in files.values() if path.read_bytes()[:1] == b"{"]
    coloured, grey_one = sorted(tables, key=lambda table: -len(table["data"]))
    assert coloured["columns"] == ["query", "query class", "rank", "neighbour", "neighbour class", "similarity"]
    scalars = [[row[1], row[2], row[4], row[5]] for row in coloured["data"]]
    assert scalars == [["cat", 1, "cat", 0.75], ["cat", 2, "dog", 0.5]]
    shown = [[np.asarray(Image.open(files[row[column]["sha256"]])) for column in (0, 3)] for row in coloured["data"]]
    np.testing.assert_array_equal(shown, np.stack([[red, red], [red, green]]).transpose(0, 1, 3, 4, 2))
    np.testing.assert_array_equal(np.asarray(Image.open(files[grey_one["data"][0][3]["sha256"]])), grey[0])
    assert len(said(capfd)) == 1


def mode(directory):
    """How the run is logged, once that is decided."""
    path = directory / "wandb.json"
    return json.loads(path.read_text())["mode"] if path.exists() else None


def log_and_end(directory, prepare=lambda logger: None):
    """A training in miniature: the life of its logger, with `prepare(logger)` before the end. How long the end took."""
    logger = WandbLogger(str(directory), "kindred", tags=["a"])
    logger.log_hyperparams({"model": {"temperature": 0.1}})
    for step in range(5):
        logger.log_metrics({"val/x": step / 3, "epoch": step / 2}, step)
    prepare(logger)
    began = time.monotonic()
    logger.finish({"val/x_best": 0.9})
    return time.monotonic() - began


def assert_holds_all(run):
    """What `log_and_end` logs."""
    assert {row[STEP]: row["val/x"] for row in run["history"] if "val/x" in row} == {s: s / 3 for s in range(5)}
    assert run["summary"]["val/x_best"] == 0.9
    assert run["config"]["model"]["value"] == {"temperature": 0.1}


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["refuses", "hangs", pytest.param("fails", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wait", [5.0, pytest.param(wandb_logger.WAIT, marks=pytest.mark.slow)])
def test_a_server_that_is_of_no_use_costs_seconds_and_no_data(tmp_path, capfd, monkeypatch, kind, wait):
    monkeypatch.setattr(wandb_logger, "WAIT", wait)
    with refusing() as address, FakeWandbServer(kind) as server:
        monkeypatch.setenv("WANDB_BASE_URL", address if kind == "refuses" else server.url)
        began = time.monotonic()
        assert in_child(lambda: log_and_end(tmp_path, lambda _: wait_for(lambda: mode(tmp_path))) > wait) == 0
        assert time.monotonic() - began < 20
    (line,) = said(capfd)
    assert "logging offline" in line
    assert_holds_all(upload(line))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hangs", "fails"])
def test_a_server_that_is_lost_on_the_way_costs_seconds_and_no_data(tmp_path, capfd, monkeypatch, server, kind):
    lost, picture = multiprocessing.Event(), np.zeros((1, 1, 3, 3), np.uint8)

    def lose(logger):
        lost.wait(30)
        logger.log_neighbours(picture, ["cat"], picture[None], [["cat"]], np.array([[1.0]]))  # which asks the server

    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(log_and_end(tmp_path, lose) > 11))
    child.start()
    wait_for(lambda: mode(tmp_path) == "online")
    server.mode = kind
    lost.set()
    child.join(20)
    assert child.exitcode == 0
    lines = said(capfd)
    assert lines[0].startswith(f"W&B: {server.url}")
    assert "not everything is uploaded" in lines[1]
    server.mode = "answers"
    assert_holds_all(upload(lines[1], server))


def test_a_run_that_is_over_before_the_server_answers_does_not_wait_for_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(wandb_logger, "WAIT", 1.0)
    with FakeWandbServer("hangs") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert log_and_end(tmp_path) < 2
        wait_for(lambda: mode(tmp_path))
        wait_for(lambda: not locked(tmp_path / "wandb" / "lock"))
    first, second = said(capfd)
    assert first.startswith("W&B: not done within 1 s")
    assert_holds_all(upload(second))  # what the process did that nobody waited for


def locked(path):
    """Whether a process still writes a part of the run."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("online", [True, False])
def test_a_killed_run_goes_on_in_the_same_wandb_run(tmp_path, capfd, monkeypatch, server, online):
    if not online:
        monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    assert start(run, ["logger=wandb"], lambda: add_callback(At(8, kill_self))) == -signal.SIGKILL
    monkeypatch.delenv("WANDB_MODE", raising=False)  # the second part stays offline, since the first is
    assert resume(run) == 0
    first, second = said(capfd)
    if online:
        assert first == second == f"W&B: {server.url}/someone/kindred/runs/{identity(run)}"
        (uploaded,) = server.runs.values()
    else:
        assert "an earlier part of the run is not uploaded yet" in second
        uploaded = upload(second)
    assert_holds(uploaded, run)
    assert {upsert["name"] for upsert in uploaded["upserts"]} == {identity(run)}
    assert json.loads((run / "wandb.json").read_text())["mode"] == ("online" if online else "offline")
    rows = [row["_step"] for row in uploaded["history"]]
    assert rows == sorted(set(rows))
    repeated = [row for row in uploaded["history"] if row[STEP] == 7 and "train/loss" in row]
    assert len(repeated) == 2  # the checkpoint was from step 6
    assert repeated[0]["train/loss"] == repeated[1]["train/loss"]


def identity(directory):
    return json.loads((directory / "wandb.json").read_text())["id"]


@pytest.mark.slow
def test_of_two_ranks_one_logs(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert start_ranks(tmp_path / "run", ["logger=wandb"]) == [0, 0]
    (line,) = said(capfd)
    assert len(list(tmp_path.glob("run/wandb/*run-*"))) == 1
    assert_holds(upload(line), tmp_path / "run")


def write_results(directory):
    """What a run directory holds at the end, in small; file -> content."""
    files = {f"checkpoints/{name}.ckpt": name.encode() * 1000 for name in ("last", "best", "previous")}
    files |= {"figures/curves.png": b"", "config.yaml": b"seed: 0\n"}
    files["data.json"] = b'{"source": "digits", "splits": {"train": {"names": "abc", "sample_times": [1]}}}'
    files["environment.json"] = b'{"command": "kindred train", "git_commit": "f00", "git_diff": "private"}'
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_bytes(content)
    Image.new("RGB", (3, 2)).save(directory / "figures" / "curves.png")
    return {name: (directory / name).read_bytes() for name in files}


def finish_with_artifacts(directory):
    """Seconds that the end of a run takes that uploads its files."""
    logger = WandbLogger(str(directory), "kindred", artifacts=True)
    logger.log_hyperparams({"init_from": "other"})
    logger.log_metrics({"val/x": 0.5}, 1)
    began = time.monotonic()
    logger.finish({"step": 12})
    return time.monotonic() - began


def assert_holds_results(server, directory, files):
    """The artifact: all that it should hold, and where it comes from."""
    artifact = server.artifacts[f"run-{identity(directory)}"]
    assert (artifact["state"], artifact["run"]) == ("COMMITTED", identity(directory))
    expected = {name: files[name] for name in files if name not in ("checkpoints/previous.ckpt", "environment.json")}
    assert {name: content for name, content in artifact["files"].items() if name != "MANIFEST"} == expected
    manifest = json.loads(artifact["files"]["MANIFEST"])
    assert {name: entry["size"] for name, entry in manifest["contents"].items()} == {
        name: len(content) for name, content in expected.items()
    }
    came_from = {"command": "kindred train", "git_commit": "f00", "source": "digits", "init_from": "other", "step": 12}
    assert artifact["metadata"] == came_from | {"splits": {"train": {"names": "abc"}}}


def test_checkpoints_and_figures_are_an_artifact(tmp_path, server):
    files = write_results(tmp_path)
    assert finish_with_artifacts(tmp_path) < wandb_logger.WAIT
    assert_holds_results(server, tmp_path, files)
    assert [path for path in tmp_path.glob("wandb/artifacts/**/*") if path.is_file()] == []  # no copy stays
    assert not list(tmp_path.glob("wandb/*/incomplete"))


@pytest.mark.slow
def test_an_artifact_of_an_offline_run_is_uploaded_with_it(tmp_path, capfd, monkeypatch, server):
    monkeypatch.setenv("WANDB_MODE", "offline")
    files = write_results(tmp_path)
    assert finish_with_artifacts(tmp_path) < wandb_logger.WAIT
    (line,) = said(capfd)
    for name in ("last", "best"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_bytes(b"of a later part")  # what was logged is uploaded
    upload(line, server)
    assert_holds_results(server, tmp_path, files)


@pytest.mark.slow
def test_a_server_that_is_lost_before_the_artifact_costs_seconds(tmp_path, capfd, monkeypatch, server):
    monkeypatch.setattr(wandb_logger, "WAIT", 5.0)
    monkeypatch.setattr(wandb_logger, "UPLOAD", 4.0)
    write_results(tmp_path)
    logger = WandbLogger(str(tmp_path), "kindred", artifacts=True)
    logger.log_hyperparams({"init_from": "other"})
    logger.log_metrics({"val/x": 0.5}, 1)
    wait_for(lambda: mode(tmp_path) == "online")
    server.mode = "hangs"
    began = time.monotonic()
    logger.finish({"step": 12})
    assert time.monotonic() - began < 7
    wait_for(lambda: not locked(tmp_path / "wandb" / "lock"))
    lines = said(capfd)
    assert any(f"the server did not take checkpoints and figures; they are in {tmp_path}" in line for line in lines)
    [how] = [line for line in lines if "the upload goes on without the training, for up to 4 s; if it is cut: " in line]
    assert list(tmp_path.glob("wandb/*/incomplete"))  # a resume will say so
    server.mode = "answers"
    assert [row["val/x"] for row in upload(how, server)["history"] if "val/x" in row] == [0.5]


def test_an_evaluation_is_added_to_the_run(tmp_path, server):
    assert log_and_end(tmp_path) < wandb_logger.WAIT
    Image.new("RGB", (3, 2)).save(tmp_path / "map.png")
    results = {"test/knn_top1": 0.5}, {"evaluation/map": tmp_path / "map.png"}
    assert in_child(lambda: add_to_run(tmp_path, *results)) == 0
    ((name, run),) = server.runs.items()
    assert name == identity(tmp_path)
    assert (run["summary"]["test/knn_top1"], run["summary"]["val/x_best"]) == (0.5, 0.9)
    assert (run["summary"]["evaluation/map"]["width"], run["summary"]["evaluation/map"]["height"]) == (3, 2)
    assert [row["val/x"] for row in run["history"] if "val/x" in row] == [step / 3 for step in range(5)]
    assert [u["jobType"] for u in run["upserts"] if u["jobType"]][-1] == "evaluate"
    assert run["config"]["model"]["value"] == {"temperature": 0.1}


def test_an_evaluation_of_a_run_without_wandb_adds_nothing(tmp_path, capfd):
    add_to_run(tmp_path, {"test/knn_top1": 0.5}, {})
    assert list(tmp_path.iterdir()) == []
    assert said(capfd) == []


def test_disabled_is_respected(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log_and_end(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert said(capfd) == []


@pytest.mark.parametrize("mode", ["ofline", "", "Online"])
def test_a_mode_that_wandb_does_not_know_is_an_error(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ValueError, match=f"WANDB_MODE is '{mode}': choose online, offline, disabled"):
        WandbLogger(str(tmp_path), "kindred")


def test_the_modes_are_wandbs():
    from typing import get_args

    from wandb.sdk.wandb_settings import Settings

    assert set(wandb_logger.MODES) == set(get_args(Settings.model_fields["mode"].annotation))


def test_no_temporary_file_of_a_picture_stays_behind(tmp_path, monkeypatch, server):
    for name in ("run", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    seconds = log_and_end(
        tmp_path / "run",
        lambda logger: logger.log_neighbours(pixels, "ab", np.stack([pixels] * 2), ["ab", "ab"], np.ones((2, 2))),
    )
    assert seconds < wandb_logger.WAIT
    assert list((tmp_path / "run").glob("wandb/run-*/files/media/table/*.json"))  # which was logged
    assert [path for path in tmp_path.glob("*/wandb/artifacts/**/*") if path.is_file()] == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_failed_training_is_a_failed_run(tmp_path, server):
    def fail():
        raise RuntimeError("as a bug would")

    assert start(tmp_path / "run", ["logger=wandb"], lambda: add_callback(At(3, fail))) != 0
    (run,) = server.runs.values()
    assert run["exit_code"] == 1
    assert {row[STEP] for row in run["history"]} == {0, 1, 2}  # the callback came before the row of step 3


def test_a_process_that_cannot_log_is_named_and_no_more(tmp_path, capfd):
    (tmp_path / "wandb").write_text("not a directory")
    log_and_end(tmp_path)
    (line,) = said(capfd)
    assert re.match(r"W&B: .*the run goes on without it", line)


@pytest.mark.parametrize("project", ["", "a/b", "a" * 129])
def test_a_project_that_wandb_would_not_take_is_an_error(tmp_path, project):
    with pytest.raises(ValueError, match=r"logger\.wandb\.project: .* must be 1 to 128 characters"):
        WandbLogger(str(tmp_path), project)


def test_an_error_of_a_loggers_constructor_names_its_key(tmp_path, capfd):
    assert in_child(lambda: train_main("logger=wandb", "logger.wandb.project=a/b", f"run_dir={tmp_path / 'run'}")) == 1
    assert "logger.wandb.project: 'a/b' must be" in capfd.readouterr().err


def train_main(*overrides):
    from kindred.commands.train import main

    return main([*DIGITS, *overrides])
