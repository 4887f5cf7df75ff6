"""Tab, as a real bash asks for it."""

import os
import resource
import subprocess
import sys
from argparse import Namespace

import pytest

from kindred.__main__ import main
from kindred.commands.command_line import overrides
from kindred.config_files import CONFIGS, config_names

# What bash does at Tab for each line: it sets these variables, and calls the function that `complete` registered.
BASH = """
source <(kindred completion bash)
read -ra registered <<< "$(complete -p kindred)"
compopt() { :; }
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
    "${registered[-2]}" kindred
    (IFS='|'; echo "${COMPREPLY[*]}")
done
"""


@pytest.fixture
def in_bash(tmp_path):
    """A function: command lines -> the candidates that bash gets for each, joined with |."""
    script = tmp_path / "bin" / "kindred"  # as the installed one, but of this source
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom kindred.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}

    def candidates(cwd, *lines):
        command = ["bash", "--norc", "-c", BASH, "bash", *lines]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    return candidates


def test_bash_gets_commands_options_groups_choices_and_keys(in_bash):
    expected = {
        "kindred ": "-h|--help|--version|train|finetune|distill|evaluate|compare|sweep|export|completion",
        "kindred t": "train",
        "kindred train --c": "--cfg",
        "kindred train seed=1 mod": "model=|model.",
        "kindred train model=n": "nnclr",  # bash completes what stands behind =
        "kindred train model=nnclr model.q": "model.queue_size=",
        "kindred sweep wa": "wang_liu",
        "kindred sweep wang_liu data=cif": "cifar10|cifar100",
        "kindred evaluate --data cifar1": "cifar10|cifar100",
        "kindred export --format o": "onnx",
    }
    assert dict(zip(expected, in_bash(CONFIGS.parent, *expected), strict=True)) == expected


def test_own_files_are_among_them_and_nothing_else_is_said(in_bash, tmp_path):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("defaults: [simclr]\nown_key: 1\n")
    lines = "kindred train model=m", "kindred train model=mine model.ow"
    assert in_bash(tmp_path, *lines) == ["mine|mocov2", "model.own_key="]


@pytest.mark.parametrize(
    ("prefix", "words", "found"),
    [
        ("data=", ["seed=1"], [f"data={name}" for name in config_names("data")]),
        ("+experiment=s", [], ["+experiment=simclr_imagenet", "+experiment=supcon_imagenet"]),
        ("se", [], ["seed="]),
        ("~t", [], ["~trainer=", "~temperature=", "~trainer."]),
        ("model.q", [], []),  # SimCLR has none
        ("model.opt", [], ["model.optimizer.lr=", "model.optimizer.momentum=", "model.optimizer.weight_decay="]),
        ("model.temperature.t", ["temperature=cosine"], ["model.temperature.tau_min=", "model.temperature.tau_max="]),
        ("data.source.r", ["data=imagefolder"], ["data.source.root=", "data.source.range="]),
        ("model.temp", ["model=no_such_one"], ["model.temperature="]),
        ("trainer.detect_anomaly=", [], ["trainer.detect_anomaly=true", "trainer.detect_anomaly=false"]),
        ("trainer.precision=", [], []),  # what it is says torch, for which nobody waits
        ("~callbacks.geom", [], ["~callbacks.geometry", "~callbacks.geometry.images"]),
        ("no_such.", [], []),
    ],
)
def test_what_an_override_may_become(prefix, words, found):
    candidates = overrides(prefix, Namespace(overrides=words))
    assert [text for text in candidates if text.startswith(prefix)] == found


@pytest.mark.parametrize(
    ("line", "seconds"), [("kindred tr", 0.25), ("kindred train data=c", 0.25), ("kindred train model.t", 0.5)]
)
def test_it_answers_quickly(line, seconds, tmp_path):
    """In time of the processor: others may use the machine. Torch alone would take several seconds."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    answer = tmp_path / "candidates"
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    used = []
    for _ in range(3):
        answer.write_text("")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "kindred"], env=environment, cwd=CONFIGS.parent, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert answer.read_text()
    assert min(used) < seconds


def test_zsh_has_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef kindred\n")
