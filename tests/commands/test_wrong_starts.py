"""What a person may get wrong at the start: a line on stderr for each wrong key or file, and nothing is left behind."""

import os
import pickle
import re
import subprocess
import sys

import lightning
import pytest
import torch
from children import DIGITS

from kindred.__main__ import main
from kindred.commands.errors import REPORT
from kindred.runs import train

TRAIN = ["train", *DIGITS]
FOLDER = ["train", "data=imagefolder", "encoder=convnet", "trainer=cpu", "data.image_size=8"]
MOCO = ["train", "model=mocov2", *DIGITS]

# What is typed, and a pattern for each line. {run}: a finished run; the files of `place` lie in the working directory.
STARTS = [
    # Types
    (TRAIN, "trainer.max_epochs=three", [r"trainer\.max_epochs must be .*1 or more.*, got 'three'"]),
    (TRAIN, "trainer.max_epochs=2.5", [r"trainer\.max_epochs must be a whole number.*, got 2\.5"]),
    (TRAIN, "model.temperature=true", [r"model\.temperature must be a number.*, got true"]),
    (TRAIN, "model.temperature=warm", [r"model\.temperature must be a number.*, got 'warm'"]),
    (TRAIN, "model.temperature=null", [r"model\.temperature must be a number.*, got null"]),
    (TRAIN, "data.batch_size=2.5", [r"data\.batch_size must be a whole number.*, got 2\.5"]),
    (TRAIN, "data.batch_size=many", [r"data\.batch_size must be a whole number.*, got 'many'"]),
    (TRAIN, "encoder.widths=8", [r"encoder\.widths must be a list of whole numbers.*, got 8"]),
    (TRAIN, "encoder.widths=[8,wide]", [r'encoder\.widths must be a list of whole numbers.*, got \[8, "wide"\]']),
    (TRAIN, "model.optimizer=sgd", [r"model\.optimizer must be Optimizer built by a _target_, got 'sgd'"]),
    (TRAIN, "model.optimizer.lr=fast", [r"model\.optimizer\.lr must be a number.*, got 'fast'"]),
    (TRAIN, "data.source=mine", [r"data\.source must be ImageSource built by a _target_, got 'mine'"]),
    (TRAIN, "trainer.accelerator=1", [r"trainer\.accelerator must be a text.*, got 1"]),
    (TRAIN, "trainer.compile=maybe", [r"trainer\.compile must be true or false, got 'maybe'"]),
    (TRAIN, "data.num_workers=two", [r"data\.num_workers must be a whole number.*, got 'two'"]),
    (TRAIN, "seed=two", [r"seed must be a whole number.*, got 'two'"]),
    (TRAIN, "seed=1.5", [r"seed must be a whole number.*, got 1\.5"]),
    (TRAIN, "log_dir=3", [r"log_dir must be a text, got 3"]),
    (TRAIN, "resume=[1]", [r"resume=\[1\]|\[1\] is no run directory"]),
    (TRAIN, "views.views=3", [r"views\.views must be a list.*, got 3"]),
    # Signs, zeros, ranges
    (TRAIN, "trainer.max_epochs=0", [r"trainer\.max_epochs must be 1 or more, got 0"]),
    (TRAIN, "trainer.max_epochs=-1", [r"trainer\.max_epochs must be 1 or more, got -1"]),
    (TRAIN, "trainer.check_val_every_n_epoch=0", [r"trainer\.check_val_every_n_epoch must be 1 or more, got 0"]),
    (TRAIN, "trainer.accumulate_grad_batches=0", [r"trainer\.accumulate_grad_batches must be 1 or more, got 0"]),
    (TRAIN, "trainer.log_every_n_steps=0", [r"trainer\.log_every_n_steps must be 1 or more, got 0"]),
    (TRAIN, "trainer.limit_train_batches=0", [r"trainer\.limit_train_batches must be .*, got 0"]),
    (
        TRAIN,
        "trainer.limit_train_batches=0.01",
        [r"trainer\.limit_train_batches is 0\.01: .*less than one of 4 batches"],
    ),
    (TRAIN, "trainer.limit_val_batches=-1", [r"trainer\.limit_val_batches must be .*, got -1"]),
    (TRAIN, "trainer.gradient_clip_val=-1", [r"trainer\.gradient_clip_val must be 0 or more, got -1"]),
    (TRAIN, "model.temperature=0", [r"model\.temperature must be greater than 0, got 0"]),
    (TRAIN, "model.temperature=nan", [r"model\.temperature must be .*, got NaN"]),
    (TRAIN, "model.hidden_dim=0", [r"model\.hidden_dim must be 1 or more, got 0"]),
    (TRAIN, "model.projection_dim=-1", [r"model\.projection_dim must be 1 or more, got -1"]),
    (TRAIN, "model.warmup_epochs=-1", [r"model\.warmup_epochs must be 0 or more, got -1"]),
    (TRAIN, "model.optimizer.lr=-1", [r"model\.optimizer: .*-1"]),
    (TRAIN, "model.optimizer.momentum=-1", [r"model\.optimizer: .*-1"]),
    (MOCO, "model.queue_size=0", [r"model\.queue_size must be 1 or more, got 0"]),
    (MOCO, "model.queue_size=8", [r"model\.queue_size is 8.*make it that or more"]),
    (MOCO, "model.momentum=2", [r"model\.momentum must be from 0 to 1, got 2"]),
    (MOCO, "model.key_batch_splits=3", [r"model\.key_batch_splits is 3: it must divide"]),
    (TRAIN, "data.batch_size=0", [r"data\.batch_size must be 1 or more, got 0"]),
    (TRAIN, "data.batch_size=1", [r"data\.batch_size is 1: .*give 2 or more"]),
    (TRAIN, "data.batch_size=100000", [r"data\.batch_size is 100000, but there are only"]),
    (TRAIN, "data.eval_batch_size=0", [r"data\.eval_batch_size must be 1 or more, got 0"]),
    (TRAIN, "data.val_size=-1", [r"data\.val_size must be .*, got -1"]),
    (TRAIN, "data.val_size=1.5", [r"data\.val_size must be .*, got 1\.5"]),
    (TRAIN, "data.val_size=100000", [r"data\.val_size is 100000, but digits has a val split of its own"]),
    (TRAIN, "data.train_size=0", [r"data\.train_size must be 1 or more, got 0"]),
    (TRAIN, "data.num_workers=-1", [r"data\.num_workers must be 0 or more, got -1"]),
    (TRAIN, "encoder.widths=[]", [r"encoder: widths: needs at least one block"]),
    (TRAIN, "encoder.widths=[0]", [r"encoder\.widths must be .*each 1 or more, got \[0\]"]),
    (TRAIN, "callbacks.knn.k=0", [r"callbacks\.knn\.k must be 1 or more, got 0"]),
    (TRAIN, "callbacks.knn.temperature=-1", [r"callbacks\.knn\.temperature must be greater than 0, got -1"]),
    (TRAIN, "callbacks.geometry.images=1", [r"callbacks\.geometry\.images must be 2 or more, got 1"]),
    (TRAIN, "callbacks.label_free.images=1", [r"callbacks\.label_free\.images must be 2 or more, got 1"]),
    (TRAIN, "callbacks.checkpoints.every_n_steps=0", [r"callbacks\.checkpoints\.every_n_steps must be 1 or more"]),
    (TRAIN, "seed=-1", [r"seed must be 0 or more, less than 4294967296, got -1"]),
    (TRAIN, "seed=4294967296", [r"seed must be 0 or more, less than 4294967296, got 4294967296"]),
    (TRAIN, "views.views=[]", [r"views=\[\] must hold at least one View"]),
    (TRAIN, "~data.batch_size", [r"data\.batch_size: .* needs a value for it"]),
    (TRAIN, "views=small ~callbacks.checkpoints trainer.max_epochs=0", [r"trainer\.max_epochs must be 1 or more"]),
    (["train", "--cfg"], "data.batch_size=many", [r"model\.optimizer\.lr: "]),
    # Names
    (TRAIN, "model=simcrl", [r"model=simcrl: there is no configs/model/simcrl\.yaml; did you mean 'simclr'"]),
    (TRAIN, "model=simcrl data=photo", [r"data=photo: .*'photos'", r"model=simcrl: .*'simclr'"]),
    (TRAIN, "experiment=foo", [r"experiment=foo: there is no configs/experiment/foo\.yaml"]),
    (TRAIN, "trainer=tpu", [r"trainer=tpu: there is no configs/trainer/tpu\.yaml"]),
    (TRAIN, "modle=simclr", [r"modle"]),
    (TRAIN, "+model.tau=3", [r"model\.tau: .*takes no 'tau'"]),
    (TRAIN, "simclr", [r"simclr: write key=value.*did you mean model=simclr"]),
    (TRAIN, "model.hidden_dim=${sizes}", [r"model\.hidden_dim: Interpolation key 'sizes' not found"]),
    (TRAIN, "model.loss=triplets", [r"model\.loss must be one of .*got 'triplets'"]),
    (TRAIN, "model.loss_options={alpha:1}", [r"model\.loss_options\.alpha: contrastive has no such option"]),
    (TRAIN, "encoder._target_=my.Encoder", [r"encoder\._target_: 'my\.Encoder' cannot be imported"]),
    (
        TRAIN,
        "model.temprature=1 data.bach_size=2",
        [r"model\.temprature: .*'temperature'", r"data\.bach_size: .*'batch_size'"],
    ),
    (
        TRAIN,
        "model.temprature=1 seed=two data.batch_size=2.5",
        [r"model\.temprature: ", r"^error: seed must", r"data\.batch_size must"],
    ),
    (
        TRAIN,
        "+model.tau=1 model.temperature=0 trainer.max_epochs=three data.num_workers=-1",
        [r"model\.tau: ", r"model\.temperature must", r"trainer\.max_epochs must", r"data\.num_workers must"],
    ),
    # Precision and devices
    (TRAIN, "trainer.precision=double", [r"trainer\.precision=double: choose 32-true"]),
    (TRAIN, "trainer=cpu trainer.precision=16-mixed", [r"trainer\.precision=16-mixed: a CPU has no float16"]),
    (TRAIN, "trainer=cpu trainer.precision=16-true", [r"trainer\.precision=16-true: choose 32-true"]),
    (TRAIN, "trainer=cpu trainer.devices=0", [r"trainer\.devices=0 with trainer\.accelerator=cpu: "]),
    (TRAIN, "trainer=cpu trainer.devices=some", [r"trainer\.devices=some with trainer\.accelerator=cpu: "]),
    (TRAIN, "trainer.accelerator=gpu trainer.devices=99", [r"trainer\.devices=99 with trainer\.accelerator=gpu: "]),
    (TRAIN, "trainer.accelerator=quantum", [r"trainer\.accelerator=quantum: "]),
    (TRAIN, "trainer=cpu trainer.strategy=luck", [r"trainer\.accelerator=cpu: .*luck"]),
    (TRAIN, "trainer.num_nodes=0", [r"trainer\.num_nodes must be 1 or more, got 0"]),
    # Files and folders
    (FOLDER, "", [r"data\.source\.root: needs a value"]),
    (FOLDER, "data.source.root=nowhere", [r"data\.source\.root: there is no folder .*nowhere"]),
    (FOLDER, "data.source.root=words.txt", [r"data\.source\.root: there is no folder .*words\.txt"]),
    (
        FOLDER,
        "data.source.root=empty",
        [r"data\.source\.root: .*empty has no images .*; expected <root>/train/<class>/"],
    ),
    (FOLDER, "data.source.root=bad", [r"train/cat/1\.png cannot be decoded.*on_bad_image=skip"]),
    (TRAIN, "data.source.root=words.txt/digits", [r"data\.source\.root: cannot write to"]),
    (TRAIN, "log_dir=words.txt", [r"log_dir: words\.txt: .*is no folder"]),
    (TRAIN, "log_dir=words.txt/logs", [r"log_dir: words\.txt/logs: .*is no folder"]),
    (TRAIN, "run_dir={run}", [r"run_dir: .*already holds a run; to go on with it: resume="]),
    # Checkpoints, and what goes on
    (TRAIN, "init_from=nowhere", [r"init_from: nowhere: there is no such"]),
    (TRAIN, "init_from=words.txt", [r"words\.txt: damaged: it is no checkpoint"]),
    (TRAIN, "init_from=cut.pt", [r"cut\.pt: damaged: "]),
    (TRAIN, "init_from=code.pt", [r"code\.pt: holds something other than weights"]),
    (TRAIN, "init_from=list.pt", [r"list\.pt: holds no checkpoint or weights, but a list"]),
    (TRAIN, "init_from=empty", [r"empty/checkpoints/last\.ckpt: no such checkpoint"]),
    (TRAIN, "init_from={run} encoder.widths=[4,8]", [r"init_from: .* does not fit the encoder"]),
    (["train"], "resume=nowhere", [r"nowhere is no run directory: it has no config\.yaml"]),
    (["train"], "resume=empty", [r"empty is no run directory: it has no config\.yaml"]),
    (["train"], "resume=words.txt", [r"words\.txt is no run directory: it has no config\.yaml"]),
    (["train"], "resume=torn", [r"torn/config\.yaml: "]),
    (["train"], "resume={run} seed=1", [r"seed=1: a run goes on as it began"]),
    (["train"], "resume={run} trainer.max_epochs=1", [r"trainer\.max_epochs=1: the run was to have 3 epochs"]),
    (["train"], "resume={run} trainer.max_epochs=many", [r"trainer\.max_epochs must be .*, got 'many'"]),
    (["train"], "resume=cut", [r"cut/checkpoints/last\.ckpt: damaged: .*no other checkpoint is good"]),
    (["train"], "resume=foreign", [r"foreign/checkpoints/last\.ckpt: is no checkpoint of a training"]),
    # The other commands
    ([], "trian", [r"invalid choice: 'trian'.*did you mean 'train'"]),
    (["evaluate"], "", [r"logs/latest is no run directory"]),
    (["evaluate"], "--run words.txt", [r"words\.txt is no run directory"]),
    (["evaluate"], "--run {run} --labels 0", [r"--labels is 0"]),
    (["evaluate"], "--run {run} --labels few", [r"--labels: invalid float value: 'few'"]),
    (["evaluate"], "--run {run} --seed -1", [r"--seed is -1"]),
    (["evaluate"], "--run {run} --data cifar", [r"data=cifar: .*cifar10"]),
    (["evaluate"], "--run {run} --data digits data.val_size=2.5", [r"data\.val_size must be"]),
    (["evaluate"], "--run {run} data.val_size=5", [r"data\.val_size=5: the run's own data set stays"]),
    (["evaluate"], "--run {run} --wandb", [r"--wandb: .* has no wandb\.json"]),
    (["evaluate"], "--run foreign", [r"foreign/checkpoints/last\.ckpt: is no checkpoint of a training"]),
    (["export"], "--run nowhere", [r"nowhere is no run directory"]),
    (["export"], "--run {run} --format tflite", [r"--format: invalid choice: 'tflite'"]),
    (["export"], "--run {run} --output words.txt", [r"words\.txt"]),
    (["export"], "--run cut", [r"cut/checkpoints/last\.ckpt: damaged"]),
    (["compare"], "", [r"the following arguments are required: RUNS"]),
    (["compare"], "nowhere", [r"nowhere"]),
    (["compare"], "empty", [r"empty"]),
    (["compare"], "{run} --sort speed", [r"--sort speed: no run has it"]),
    (["compare"], "{run} --output empty", [r"--output empty: that is a directory"]),
    (["sweep"], "nothing", [r"sweep=nothing: there is no configs/sweep/nothing\.yaml"]),
    (["sweep"], "words.txt", [r"words\.txt: method is None"]),
    (["sweep"], "cut.pt", [r"cut\.pt: "]),
    (["sweep"], "temperature --jobs 0", [r"--jobs is 0"]),
    (["sweep"], "temperature --jobs two", [r"--jobs: invalid int value: 'two'"]),
    (["sweep"], "metric.yaml", [r"metric\.yaml: metric is 3"]),
    (["sweep"], "temperature modle=nnclr", [r"modle"]),
]


class Code:
    def __reduce__(self):
        return (os.system, ("touch ran",))


@pytest.fixture(scope="module")
def place(run, tmp_path_factory):
    """A working directory with files that are not what they are taken for."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "words.txt").write_text("just some words\n")
    (folder / "metric.yaml").write_text("method: grid\nmetric: 3\nparameters: {seed: {values: [1]}}\n")
    (folder / "empty").mkdir()
    (folder / "bad" / "train" / "cat").mkdir(parents=True)
    (folder / "bad" / "train" / "cat" / "1.png").write_text("no picture")
    last = (run / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "cut.pt").write_bytes(last[: len(last) // 2])
    (folder / "code.pt").write_bytes(pickle.dumps(Code(), protocol=2))
    torch.save([1, 2], folder / "list.pt")
    for name in ("cut", "foreign", "torn"):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "config.yaml").write_text((run / "config.yaml").read_text())
    (folder / "cut" / "checkpoints" / "last.ckpt").write_bytes(last[: len(last) // 2])
    torch.save({"weight": torch.zeros(2)}, folder / "foreign" / "checkpoints" / "last.ckpt")
    (folder / "torn" / "config.yaml").write_text("model: {temperature: [")
    return folder


def files(place):
    """All that there is, but the data and its caches."""
    return {
        path for path in place.rglob("*") if path.relative_to(place).parts[0] != "data" and ".kindred" not in path.parts
    }


@pytest.mark.parametrize(
    ("start", "wrong", "expected"), STARTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_start_takes_a_line_for_each_thing_to_mend(start, wrong, expected, run, place, capfd, monkeypatch):
    def trains(*_, **__):
        raise AssertionError("it trains")

    monkeypatch.setattr(lightning.Trainer, "validate", trains)
    monkeypatch.setattr(lightning.Trainer, "fit", trains)
    monkeypatch.setenv("KINDRED_RUN_DIR", "")  # both are put back: a training writes them
    monkeypatch.setenv("KINDRED_RUN_PARENT", "")
    monkeypatch.chdir(place)
    before = files(place)
    try:
        status = main([*start, *wrong.replace("{run}", str(run)).split()])
    except SystemExit as stop:  # argparse's
        status = stop.code
    lines = capfd.readouterr().err.splitlines()
    assert status in (1, 2), lines
    assert len(lines) == len(expected), lines
    assert all(line.startswith("error: ") for line in lines), lines
    for pattern in expected:
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    assert files(place) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train seed=two log_dir=3 model.temprature=1", "error: model.temprature: there is no such key"),
        ("train trainer.max_epochs=three", "error: trainer.max_epochs must be a whole number"),
        ("evaluate --run nowhere", "error: nowhere is no run directory"),
    ],
)
def test_so_it_is_from_a_shell(words, message, place):
    command = [sys.executable, "-m", "kindred", *words.split()]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_names_and_values_of_the_file_itself_are_checked_before_torch_is_imported():
    code = (
        "import sys; from kindred.commands.train import main; "
        "assert main(['seed=two', 'modle=simclr', 'init_from=nowhere']) == 1; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(" ")[1] for line in done.stderr.splitlines()] == ["modle:", "seed"]


def divide(*_):
    return 1 / 0


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_bug_shows_its_traceback_and_after_it_where_to_report_it(command, run, monkeypatch, capfd):
    monkeypatch.setattr(train, "check", divide)
    monkeypatch.setattr("kindred.commands.evaluate.evaluate", divide)
    assert main(TRAIN if command == "train" else ["evaluate", "--run", str(run)]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("in divide" in line for line in lines)
    assert lines[-2:] == ["ZeroDivisionError: division by zero", f"error: {REPORT}"]
