"""What documents, comments and docstrings name is there; the hooks before a commit are the checks of `make lint`."""

import ast
import importlib
import json
import re
import tokenize
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
YAML = sorted(ROOT.glob("configs/**/*.yaml"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
CODE = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("benchmarks/*.py")])
NAME = re.compile(r"(?<![\w/.-])kindred(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(r"(?<![\w/.-])(?:src|configs|benchmarks|tests|docs|notebooks)/[\w./-]*[<*{]?")


def text(path):
    """What a person reads of a file: all of it, or its docstrings and comments."""
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    if path.suffix != ".py":
        return path.read_text()
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    with path.open("rb") as file:
        comments = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return "\n".join([*filter(None, map(ast.get_docstring, nodes)), *comments])


def is_there(name):
    """Whether a dotted name is a module, or something in one."""
    module, _, rest = name, "", ""
    while not is_module(module):
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}" if rest else last
    thing = importlib.import_module(module)
    for part in filter(None, rest.split(".")):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


def is_module(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module and no package
        return False


def path_of(found):
    """A path as far as it is spelt out: `configs/model/<name>.yaml` is that folder."""
    return found if found[-1] not in "<*{" else found[: found.rfind("/") + 1]


@pytest.mark.parametrize("path", [*PROSE, *YAML, *NOTEBOOKS, *CODE], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_names_exists(path):
    read = text(path)
    assert [name for name in sorted(set(NAME.findall(read))) if not is_there(name)] == []
    assert [
        found for found in sorted(set(PATH.findall(read))) if not (ROOT / path_of(found).rstrip(".")).exists()
    ] == []


def test_names_that_are_gone_would_be_found():
    assert NAME.findall("see `kindred.train`, kindred.runs.run.Run.") == ["kindred.train", "kindred.runs.run.Run"]
    assert is_there("kindred.runs.run.Run.config")
    assert not is_there("kindred.train")
    assert not is_there("kindred.runs.run.Runs")
    found = PATH.findall("src/kindred/train.py, configs/model/<name>.yaml and tests/models/test_<name>.py.")
    assert [path_of(each) for each in found] == ["src/kindred/train.py", "configs/model/", "tests/models/"]


def test_the_hooks_before_a_commit_are_make_lint():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    commands = recipe.replace("$(BIN)", ".venv/bin").replace("$(VENV)", ".venv").split("\n")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"  # others are downloaded
    assert [hook["entry"] for hook in local["hooks"]] == [command.strip() for command in commands if command]
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in local["hooks"])
