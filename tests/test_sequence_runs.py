"""Sequences through the whole house: arrays, a smart watch and recordings, trained, resumed, judged, exported."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from children import At, add_callback, in_child, kill_self
from outcomes import assert_same, outcome

import kindred
from kindred.callbacks.metric_names import metric_names
from kindred.commands.train import main
from kindred.config import compose
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.judging.evaluate import evaluate

TINY = [
    *("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "trainer.log_every_n_steps=1", "callbacks.knn.k=10"),
    *("callbacks.checkpoints.every_n_steps=2", "trainer.enable_progress_bar=false", "data.batch_size=64"),
]
ONE_VIEW = "views.views=[{_target_: kindred.data.sequences.views.SequenceView}]"
CLASSES = ("slow", "middle", "fast")


def tones(count, length, rate=50.0, channels=2, seed=0):
    """Sequences [count, channels, length] of three classes: the frequency, in noise, of any phase and strength."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    time = np.arange(length) / rate
    phase = generator.uniform(0, 2 * np.pi, (count, channels, 1))
    strength = generator.uniform(0.5, 2, (count, channels, 1))
    frequency = rate * np.array([0.02, 0.06, 0.18])[labels][:, None, None]
    sequences = strength * np.sin(2 * np.pi * frequency * time + phase)
    return (sequences + generator.normal(0, 0.3, sequences.shape)).astype(np.float32), labels


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A training on arrays of ten people."""
    root = tmp_path_factory.mktemp("arrays")
    sequences, labels = tones(480, 64)
    np.save(root / "x.npy", sequences)
    np.save(root / "y.npy", np.array(CLASSES)[labels])
    np.save(root / "people.npy", np.arange(480) // 48)
    return [
        *("data=arrays", f"data.source.path={root / 'x.npy'}", f"data.source.labels={root / 'y.npy'}"),
        *(f"data.source.groups={root / 'people.npy'}", "data.length=64", "data.channels=2", *TINY, "encoder.width=16"),
    ]


def start(run, words, prepare=lambda: None):
    return in_child(lambda: (prepare(), main([*words, f"run_dir={run}"]))[1])


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    run = tmp_path_factory.mktemp("sequence-run") / "run"
    assert start(run, [*settings, "model.hidden_dim=32"]) == 0
    return run


def test_a_run_has_base_lines_that_say_something_and_pictures_of_lines(whole, settings):
    run = kindred.load_run(whole)
    few = {name for name in metric_names(compose(settings)) if "top5" not in name}  # of three classes
    assert set(run.summary) == few
    assert run.summary["spectrum/knn_top1"] > 0.9  # the classes are frequencies
    assert run.summary["val/linear_top1"] > 0.8
    assert {path.name for path in (whole / "figures").iterdir()} >= {"curves.png", "neighbours.png"}
    mean = np.array(json.loads((whole / "scaling.json").read_text())["mean"])
    data = run.datamodule()
    data.setup()
    assert np.allclose(mean, data.train.__getitems__(list(range(len(data.train)))).raw.mean(axis=(0, 2)), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        "cpc",
        *(pytest.param(model, marks=pytest.mark.slow) for model in ("mocov2", "nnclr", "supcon", "instdisc")),
    ],
)
def test_the_other_methods_train_on_sequences(model, settings, tmp_path):
    own = {
        "cpc": [
            "model.hidden_dim=16",
            "model.steps_ahead=2",
            ONE_VIEW,
        ],
        "mocov2": ["model.queue_size=128", "model.hidden_dim=32"],
        "nnclr": ["model.queue_size=128", "model.hidden_dim=32"],
        "supcon": ["model.hidden_dim=32"],
        "instdisc": [],
    }[model]
    assert start(tmp_path / "run", [*settings, f"model={model}", *own]) == 0
    assert kindred.load_run(tmp_path / "run").summary["val/linear_top1"] > 0.6


def test_it_is_resumed_to_the_bit(whole, settings, tmp_path):
    run = tmp_path / "run"
    killed = start(run, [*settings, "model.hidden_dim=32"], prepare=lambda: add_callback(At(3, kill_self)))
    assert killed == -signal.SIGKILL
    assert in_child(lambda: main([f"resume={run}"])) == 0
    assert_same(outcome(run), outcome(whole))


def test_it_is_judged_on_the_people_that_are_left(whole):
    assert in_child(lambda: evaluate(kindred.load_run(whole)) and None) == 0
    result = json.loads((whole / "evaluation.json").read_text())
    assert result["test/linear_top1"] > 0.8
    assert result["test_examples"] == 48  # one person's of ten


@pytest.mark.parametrize("format", ["safetensors", "torch-export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_exported_encoder_comes_with_its_scaling(whole, tmp_path, format):
    run = kindred.load_run(whole)
    path = export(run, format, tmp_path)
    scaling = json.loads((tmp_path / "scaling.json").read_text())
    raw, _ = tones(4, 64, seed=9)
    mean, std = (torch.tensor(scaling[name])[:, None] for name in ("mean", "std"))
    inputs = (torch.from_numpy(raw) - mean) / std
    data = run.datamodule()
    data.setup()
    with torch.inference_mode():
        expected = run.encoder(data.views.plain(torch.from_numpy(raw)))
        if format == "safetensors":
            features = load_encoder(path)(inputs)
        elif format == "torch-export":
            features = torch.export.load(path).module()(inputs)
        else:
            import onnxruntime

            features = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"sequences": inputs.numpy()})[0])
    assert torch.allclose(features, expected, atol=1e-5)
    assert "scaling.json" in (tmp_path / "README.md").read_text()


def test_recordings_in_class_folders_train(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for split, count, seed in (("train", 60, 0), ("val", 24, 1), ("test", 24, 2)):
        for number, (samples, label) in enumerate(zip(*tones(count, 900, 8000.0, 1, seed), strict=True)):
            (tmp_path / "root" / split / CLASSES[label]).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "root" / split / CLASSES[label] / f"{number}.wav"
            soundfile.write(path, samples[0] / 4, 8000)
    words = [
        *("data=audiofolder", f"data.source.root={tmp_path / 'root'}", "data.source.rate=4000", "data.length=320"),
        *(*TINY, "data.batch_size=20", "encoder.width=16", "model.hidden_dim=32", "data.num_workers=0"),
    ]
    assert start(tmp_path / "run", words) == 0
    assert kindred.load_run(tmp_path / "run").summary["val/linear_top1"] > 0.6
    assert in_child(lambda: evaluate(kindred.load_run(tmp_path / "run"), brief=True) and None) == 0


@pytest.mark.slow
def test_the_command_on_the_watch(tmp_path):
    pytest.importorskip("seglearn")
    words = ["model=simclr", "data=watch", *TINY, "encoder.width=16", "model.hidden_dim=32", "data.source.stride=512"]
    command = [sys.executable, "-m", "kindred", "train", *words, "data.batch_size=32", "run_dir=run"]
    subprocess.run(command, check=True, cwd=tmp_path)
    summary = kindred.load_run(tmp_path / "run").summary
    assert {"val/knn_top1", "untrained/linear_top1", "spectrum/linear_top1"} <= summary.keys()
