"""What `kindred` says of itself, and of words that it does not know; all of it without waiting for torch."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kindred.__main__ import COMMANDS, main
from kindred.commands.train import KEYS, choices_and_keys
from kindred.config import compose
from kindred.config_files import CONFIGS, default_choices

# Runs command lines one after another in one fresh process, and says what each ended with and whether torch was imported.
MANY = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from kindred.__main__ import main
ended = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    ended.append([status, out.getvalue(), err.getvalue(), sorted({"torch", "lightning", "torchvision"} & set(sys.modules))])
print(json.dumps(ended))
"""
WRONG = {  # words -> the end of the one line, or a part of it
    "trian": "did you mean 'train'?",
    "swep temperature": "did you mean 'sweep'?",
    "--verison": "did you mean '--version'?",
    "train --cgf": "did you mean '--cfg'?",
    "evaluate --labls 0.1": "did you mean '--labels'?",
    "evaluate --labels x": "argument --labels: invalid float value: 'x'",
    "compare logs --otput=x": "did you mean '--output'?",
    "compare": "the following arguments are required: RUNS",
    "export --format onx": "did you mean 'onnx'?",
    "sweep temperature --engine optun": "did you mean 'optuna'?",
    "completion bsh": "did you mean 'bash'?",
}
MISTAKES = {  # overrides -> a part of the one line
    "simclr": "simclr: write key=value, and quotes around a value with special characters; did you mean model=simclr?",
    "model=$(x)": "model=$(x): write key=value, and quotes around",
    "model='a b": "model='a b: write key=value, and quotes around",
    "seed=1,2": "seed=1,2",
    "=3": "must be a string",
    "modle=simclr": "modle: there is no such key; did you mean 'model'?",
    "model=simcrl": "did you mean 'simclr'? Choices: cpc, distilled, finetuned, instdisc, mocov2, nnclr, simclr, ",
    "~model.nothing": "'model.nothing' does not exist",
}


@pytest.fixture(scope="module")
def said():
    """(status, stdout, stderr, heavy imports so far) of many command lines."""
    lines = [[], ["--help"], ["-h"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    lines += [words.split() for words in WRONG] + [["train", words] for words in MISTAKES]
    command = [sys.executable, "-c", MANY, json.dumps(lines)]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True, check=True)
    return dict(zip([" ".join(line) for line in lines], json.loads(done.stdout), strict=True))


def test_none_of_it_imports_torch(said):
    assert [line for line, (*_, heavy) in said.items() if heavy] == []


def test_help_lists_the_commands_with_a_line_each(said):
    status, out, err, _ = said["--help"]
    assert (status, err) == (0, "")
    assert said["-h"] == said["--help"]
    lines = out.splitlines()
    for name, what in COMMANDS.items():
        assert f"  {name:11} {what}" in lines
        assert (Path(CONFIGS.parent, "src/kindred/commands") / f"{name}.py").exists()
    assert said[""][:3] == [2, "", out]


def test_version(said):
    assert said["--version"][:3] == [0, f"kindred {version('kindred')}\n", ""]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name, said):
    status, out, err, _ = said[f"{name} --help"]
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: kindred {name} ")


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_or_option_is_one_line_with_the_nearest_right_one(words, said):
    status, out, err, _ = said[words]
    assert (status, out) == (2, "")
    assert err.startswith("error: kindred")
    assert err.endswith(f"{WRONG[words]}\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", MISTAKES)
def test_an_override_that_cannot_be_is_one_line(words, said):
    status, out, err, _ = said[f"train {words}"]
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert MISTAKES[words] in err


def test_help_of_train_says_groups_choices_and_keys_with_the_values_they_have(said):
    _, out, _, _ = said["train --help"]
    config = compose()
    for group in default_choices():
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {group}=")]
        names = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
        assert {name.strip("[]") for name in line.split()[1:]} == names
        chosen = config.choices.get(group, default_choices()[group])
        assert [name for name in line.split() if name.startswith("[")] == ([f"[{chosen}]"] if chosen else [])
    for key in KEYS:
        value = OmegaConf.select(config, key)
        assert f"  {key}={'null' if value is None else value} " in out


def test_help_of_train_shows_what_the_words_make_of_the_keys():
    said = choices_and_keys(["model=nnclr", "data=imagefolder", "callbacks=hardness", "temperature=cosine"])
    assert (
        "model=        cpc distilled finetuned instdisc mocov2 [nnclr] simclr simclrv2 simclrv2_memory supcon\n" in said
    )
    assert "default [hardness]" in said
    assert "[cosine]" in said
    assert f"  model.optimizer.lr={compose(['model=nnclr', 'data=imagefolder']).model.optimizer.lr} " in said
    assert "  data.source.root=??? " in said


def test_python_m_kindred_is_the_same(said):
    done = subprocess.run([sys.executable, "-m", "kindred", "trian"], capture_output=True, text=True, check=False)
    assert [done.returncode, done.stdout, done.stderr] == said["trian"][:3]


def test_own_configs_are_told_of_once_and_their_classes_are_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text(
        "defaults: [simclr]\n_target_: own_method_of_a_test.Mine\n"
    )
    (tmp_path / "own_method_of_a_test.py").write_text("from kindred.models.simclr import SimCLR as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["train", "model=mine", "trainer.max_epochs=0", "--cfg"]) == 0
    out, err = capsys.readouterr()
    assert "_target_: own_method_of_a_test.Mine" in out
    assert err == f"{tmp_path / 'configs'} is searched first, then Kindred's own configs/\n"
    assert sys.path[-1] == str(tmp_path)  # last: what is installed is not overshadowed
    import own_method_of_a_test

    assert own_method_of_a_test.Mine.__name__ == "SimCLR"
    monkeypatch.chdir(CONFIGS.parent)
    assert main(["train", "--cfg"]) == 0
    assert capsys.readouterr().err == ""


def test_other_ranks_do_not_say_it_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setitem(os.environ, name, value)
    assert main(["train", "--cfg"]) == 0
    assert capsys.readouterr().err == ""
