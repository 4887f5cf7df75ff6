"""What is installed where there is no clone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kindred import config_files
from kindred.study.sweeps.reading import read_sweep

ROOT = Path(__file__).parents[1]
SMALL = ["encoder.widths=[8,16]", "model.hidden_dim=32", "trainer.max_epochs=2"]


def built(place, version):
    """The wheel, which needs no network: hatchling is here."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", f"wheel:{version}", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(tmp_path_factory.mktemp("wheel"), "standard")


def files(folder, pattern):
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


def test_it_holds_the_package_the_configs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = [archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt")]
    package = files(ROOT / "src", "*.py") | files(ROOT / "src", "*.html")
    assert names == package | {f"kindred/configs/{name}" for name in files(ROOT / "configs", "*.yaml")}
    assert entry_points == ["[console_scripts]\nkindred = kindred.__main__:main\n"]


def test_an_editable_installation_has_no_copy_of_them(tmp_path):
    with zipfile.ZipFile(built(tmp_path, "editable")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert [archive.read(name).decode().split() for name in names] == [[str(ROOT / "src")]]
    assert config_files.CONFIGS == ROOT / "configs"


def run(place, target, *command):
    """Run Python with what is in `target` alone of Kindred."""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def own_model(place):
    """A method of one's own in the working directory."""
    (place / "configs" / "model").mkdir(parents=True)
    (place / "configs" / "model" / "mine.yaml").write_text(
        "defaults: [simclr]\n_target_: my_methods.Mine\ntemperature: 0.33\n"
    )
    (place / "my_methods.py").write_text(
        "from kindred.models.simclr import SimCLR\n\n\nclass Mine(SimCLR):\n    pass\n"
    )


def test_it_composes_without_the_clone(wheel, tmp_path):
    target, place = tmp_path / "installed", tmp_path / "place"
    place.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    own_model(place)
    code = """
import json
from kindred.config import compose
from kindred.config_files import config_directories
from kindred import config_files
from kindred.study.sweeps.reading import read_sweep
config = compose(["model=mine", "data=digits"])
places = [str(place) for place in config_directories()]
print(json.dumps([places, config.model._target_, config.model.temperature, len(read_sweep("wang_liu").grid())]))
"""
    done = run(place, target, "-c", code)
    assert done.returncode == 0, done.stderr
    places = [str(place / "configs"), str(target / "kindred" / "configs")]
    assert json.loads(done.stdout) == [places, "my_methods.Mine", 0.33, len(read_sweep("wang_liu").grid())]


@pytest.mark.slow
def test_installed_into_an_empty_folder_it_trains_and_judges(wheel, tmp_path):
    target, place = tmp_path / "installed", tmp_path / "place"
    place.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], capture_output=True, check=True)
    kindred = str(target / "bin" / "kindred")

    trained = run(place, target, kindred, "train", "data=digits", *SMALL)
    assert trained.returncode == 0, trained.stderr
    assert "searched first" not in trained.stderr
    judged = run(place, target, kindred, "evaluate")
    assert judged.returncode == 0, judged.stderr
    result = json.loads((place / "logs" / "latest" / "evaluation.json").read_text())
    assert result["test/knn_top1"] > 0.5  # of ten digits

    own_model(place)
    trained = run(place, target, kindred, "train", "data=digits", "model=mine", *SMALL)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count(f"{place / 'configs'} is searched first") == 1
    config = (place / "logs" / "latest" / "config.yaml").read_text()
    assert "_target_: my_methods.Mine" in config
    judged = run(place, target, kindred, "evaluate", "--trust", "my_methods.Mine")
    assert judged.returncode == 0, judged.stderr
    assert not list(target.rglob("logs"))
