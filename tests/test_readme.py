"""The commands of the README, run as they stand there but for shorter trainings."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from kindred.config import check, compose
from kindred.study.sweeps.checking import check as check_sweep
from kindred.study.sweeps.reading import read_sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
VARIABLES = {
    "MODEL": "model",
    "DATA": "data",
    "ENCODER": "encoder",
    "VIEWS": "views",
    "TRAINER": "trainer",
    "LOGGER": "logger",
    "SEED": "seed",
    "EPOCHS": "trainer.max_epochs",
    "DEVICES": "trainer.devices",
}
TRAININGS = [command for command in COMMANDS if command[:2] == ["make", "train"]]


def overrides(command):
    """What `make` passes on for its variables."""
    found = []
    for variable, value in (argument.split("=", 1) for argument in command[2:]):
        if variable in VARIABLES:
            found.append(f"{VARIABLES[variable]}={value}")
        elif variable == "ARGS":
            found += shlex.split(value)
    return found


def test_it_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 250
    assert len(TRAININGS) >= 5
    assert {made.split()[1] for made, _ in TWINS} == {
        "train",
        "finetune",
        "distill",
        "sweep",
        "compare",
        "evaluate",
        "export",
    }


@pytest.mark.parametrize("command", TRAININGS, ids=" ".join)
def test_every_training_composes_and_fits_the_signatures(command):
    if not any(argument.startswith("RESUME=") for argument in command):
        check(compose(overrides(command)))


def test_every_sweep_composes():
    sweeps = [command for command in COMMANDS if command[:2] == ["make", "sweep"]]
    assert sweeps
    for command in sweeps:
        variables = dict(argument.split("=", 1) for argument in command[2:])
        check_sweep(read_sweep(variables["SWEEP"]).with_overrides(overrides(command)))


@pytest.mark.parametrize(
    "name", ["compare", *(pytest.param(n, marks=pytest.mark.slow) for n in ("evaluate", "export"))]
)
def test_what_follows_a_run(name, run, tmp_path):
    """The commands that take a run, on one, each as a person types it."""
    (command,) = [command for command in COMMANDS if command[:2] == ["make", name]]
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    words = [word.replace("logs/latest", str(copy)).replace("logs/photos/*/*", f"{tmp_path}/*") for word in command]
    output = shell(
        [*words, f"VENV={Path(sys.executable).parents[1]}", f"ARGS=--output {tmp_path / 'out'}"][
            : -1 if name == "evaluate" else None
        ]
    )
    assert {"compare": "kNN best", "evaluate": "test", "export": "onnx"}[name] in output


def test_files_that_it_names_exist():
    for path in re.findall(r"`((?:src|configs|benchmarks|tests|docs)/[\w./-]+)`|\]\((docs/[\w./-]+)\)", README):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_the_picture_names_files_that_are_there():
    picture = re.search(r"```mermaid\n(.*?)```", README, flags=re.DOTALL)[1]
    files = [file for names in re.findall(r"<i>(.*?)</i>", picture) for file in names.split(", ")]
    assert len(files) > 5
    assert [file for file in files if not (ROOT / "src/kindred" / file).exists()] == []


def test_the_tree_has_every_room_in_the_order_of_their_layers():
    rooms = re.findall(r"^  (\w+)/ ", README[README.index("## The tree") :], flags=re.MULTILINE)
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    heights = {room: height for height, layer in enumerate(layers) for room in layer.split(" | ")}
    assert set(rooms) == {path.parent.name for path in (ROOT / "src/kindred").glob("*/__init__.py")}
    assert rooms == sorted(rooms, key=heights.get)


TWINS = re.findall(r"^(make .*?) +# (kindred .*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize(("made", "typed"), TWINS, ids=[made for made, _ in TWINS])
def test_make_calls_the_command_beside_it(made, typed, tmp_path):
    python = tmp_path / "bin" / "python"  # instead of the environment's: it prints its words
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    (tmp_path / ".installed-default").touch()
    words = shell([*shlex.split(made), f"VENV={tmp_path}", "--no-print-directory"]).splitlines()  # also under make test
    apart = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    assert ["kindred", *apart[2:]] == shlex.split(typed)


def shell(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_first_command_and_the_resume_after_it(tmp_path):
    venv = f"VENV={Path(sys.executable).parents[1]}"
    logs = f"log_dir={tmp_path}"
    first = next(command for command in TRAININGS if command[2:] == ["MODEL=simclr"])
    assert "kNN, untrained encoder" in shell([*first, venv, "DEBUG=1", f"ARGS={logs}"])
    longer = next(command for command in TRAININGS if command[2:] == ["RESUME=logs/latest", "EPOCHS=30"])
    resumed = [argument.replace("logs/latest", str(tmp_path / "latest")) for argument in longer]
    output = shell([*(argument.replace("EPOCHS=30", "EPOCHS=3") for argument in resumed), venv])
    assert "trainer.max_epochs 2 -> 3" in output
    assert "3 epochs in" in output


def test_the_python_example_runs(run):
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    namespace = {"images": torch.rand(4, 1, 8, 8)}
    exec(code.replace('"logs/latest"', repr(str(run))), namespace)
    assert namespace["features"].shape == (4, namespace["run"].encoder.num_features)


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAININGS, ids=" ".join)
def test_every_training_on_data_at_hand_runs(command, tmp_path):
    arguments = [argument for argument in command[2:] if not argument.startswith("ARGS=")]
    needs_more = any(a.startswith(("DATA=", "RESUME=")) or a in ("TRAINER=gpu", "TRAINER=ddp") for a in arguments)
    if needs_more:
        pytest.skip("needs a download, a GPU, images of one's own, or an earlier run")
    extra = [argument.removeprefix("ARGS=") for argument in command[2:] if argument.startswith("ARGS=")]
    venv = f"VENV={Path(sys.executable).parents[1]}"
    shell(["make", "train", *arguments, venv, "DEBUG=1", f"ARGS={' '.join(extra)} log_dir={tmp_path}"])
