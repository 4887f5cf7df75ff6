"""What make's variables become: words of `kindred`, exactly as they were typed, or an error."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDER = f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ.get("KINDRED_STORAGE")]))
"""


@pytest.fixture
def venv(tmp_path):
    """An environment whose Python prints the words that it gets."""
    directory = tmp_path / "venv"
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    stamp = directory / ".installed-default"
    stamp.touch()
    os.utime(stamp, (4e9, 4e9))  # newer than the files it is made from
    return directory


def make(venv, *words, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # not those of `make test`
    command = ["make", *words, f"VENV={venv}", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=False)


def passed_on(venv, *words, **environment):
    """The words after `python -m kindred`."""
    done = make(venv, *words, **environment)
    assert done.returncode == 0, done.stderr
    (python, kindred, *rest), storage = json.loads(done.stdout)
    assert (python, kindred) == ("-m", "kindred")
    return [*rest, f"storage {storage}"] if storage else rest


def hostile(tmp_path):
    """A value that runs something wherever make or a shell reads it."""
    touch = f"touch {tmp_path / 'ran'}"
    return f'it\'s $(shell {touch}) $({touch}) `{touch}` ${{HOME}} $$HOME $HOME "q" a,b # * \\;{touch};\n\t{touch} #\\'


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (
            "train",
            {
                "MODEL": "model={}",
                "DATA": "data={}",
                "ENCODER": "encoder={}",
                "VIEWS": "views={}",
                "TRAINER": "trainer={}",
                "LOGGER": "logger={}",
                "SEED": "seed={}",
                "EPOCHS": "trainer.max_epochs={}",
                "DEVICES": "trainer.devices={}",
                "RESUME": "resume={}",
            },
        ),
        ("sweep", {"SWEEP": "{}", "MODEL": "model={}", "JOBS": "--jobs={}", "ENGINE": "--engine={}"}),
        ("sweep", {"SWEEP": "{}", "STORAGE": "storage {}"}),
        ("evaluate", {"RUN": "--run={}", "DATA": "--data={}", "LABELS": "--labels={}", "SEED": "--seed={}"}),
        ("export", {"RUN": "--run={}", "FORMAT": "--format={}"}),
        (
            "finetune",
            {"RUN": "--run={}", "LABELS": "--labels={}", "LAYER": "--layer={}", "VIEWS": "views={}", "SEED": "seed={}"},
        ),
        ("distill", {"RUN": "--run={}", "INIT": "--init={}", "LAYER": "--layer={}", "ENCODER": "encoder={}"}),
    ],
)
def test_a_value_reaches_the_program_as_it_is_and_never_a_shell(goal, words, venv, tmp_path):
    value = hostile(tmp_path)
    expected = [goal, *(word.format(value) for word in words.values())]
    assert passed_on(venv, goal, *(f"{name}={value}" for name in words)) == expected
    assert passed_on(venv, goal, **dict.fromkeys(words, value)) == expected  # from the environment
    assert not (tmp_path / "ran").exists()


def test_runs_are_several_globs_or_one_path_that_is_there(venv, tmp_path):
    assert passed_on(venv, "compare") == ["compare", "logs"]
    assert passed_on(venv, "compare", "RUNS=a/*  b/*/c") == ["compare", "a/*", "b/*/c"]
    there = tmp_path / "it's $(shell echo) a dir"
    (there / "run").mkdir(parents=True)
    for runs in (there, f"{there}/*"):
        assert passed_on(venv, "compare", f"RUNS={runs}", "ARGS=--sort x") == ["compare", str(runs), "--sort", "x"]
    value = hostile(tmp_path)
    assert passed_on(venv, "compare", f"RUNS={value}") == ["compare", *value.split()]
    assert not (tmp_path / "ran").exists()


def test_a_run_in_a_directory_with_blanks_and_quotes_is_compared(run, tmp_path):
    place = tmp_path / "it's a dir" / "a run"
    shutil.copytree(run, place)
    done = make(
        Path(sys.executable).parents[1], "compare", f"RUNS={place.parent}/*", f"ARGS=--output {tmp_path}/page.html"
    )
    assert done.returncode == 0, done.stderr
    assert "kNN best" in done.stdout
    assert (tmp_path / "page.html").exists()


def test_args_are_words_of_a_shell(venv):
    words = passed_on(venv, "train", "ARGS='a=b c' ~callbacks.knn model.x=1")
    assert words == ["train", "a=b c", "~callbacks.knn", "model.x=1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train MODLE=nnclr", "make train takes no MODLE; did you mean MODEL?"),
        ("train model=nnclr", "make train takes no model; did you mean MODEL?"),
        ("train RUNS=logs", "make train takes no RUNS."),
        ("compare RUN=logs/latest", "make compare takes no RUN; did you mean RUNS?"),
        ("evaluate LABEL=0.1", "make evaluate takes no LABEL; did you mean LABELS?"),
        ("export FORMATS=onnx", "make export takes no FORMATS; did you mean FORMAT?"),
        ("finetune LAYERS=1", "make finetune takes no LAYERS; did you mean LAYER?"),
        ("distill MODEL=nnclr", "make distill takes no MODEL."),
        ("test MODEL=nnclr", "make test takes no MODEL."),
    ],
)
def test_a_variable_that_make_does_not_know_is_an_error_with_the_nearest_right_one(words, message, venv):
    done = make(venv, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_variables_of_the_environment_and_those_of_the_set_up_are_let_pass(venv):
    assert passed_on(venv, "train", "TORCH=", "MODEL=simclr", MODLE="x", CHOICES="x") == ["train", "model=simclr"]
    assert make(venv, "help", "-j2").returncode == 0


def test_scratch_is_a_word_of_its_own(venv):
    words = passed_on(venv, "finetune", "SCRATCH=1", "LABELS=0.1", "EPOCHS=3", "ARGS=model.optimizer.lr=1")
    assert words == ["finetune", "--labels=0.1", "--scratch", "trainer.max_epochs=3", "model.optimizer.lr=1"]
