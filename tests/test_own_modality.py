"""Contrast is not about pictures: a modality of a test's own trains, is evaluated, resumed and exported."""

import json
import signal

import numpy as np
import pytest
import torch
from children import At, add_callback, in_child, kill_self, resume, start
from outcomes import assert_same, outcome

import kindred
from kindred.data.counter import uniforms
from kindred.data.source import ArrayExamples
from kindred.data.views import Views
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.judging.evaluate import evaluate

OWN = [f"test_own_modality.{name}" for name in ("Waves", "Windows", "Means")]
SETTINGS = [
    f"encoder._target_={OWN[2]}",
    "~encoder.in_channels",
    "~encoder.widths",
    "data._target_=kindred.data.datamodule.DataModule",
    "~data.source.channels",
    "~data.image_size",
    "~data.channels",
    "~data.source.root",
    f"data.source._target_={OWN[0]}",
    "data.batch_size=64",
    f"views._target_={OWN[1]}",
    "~views.views",
]


class Waves:
    """Sequences of 40 numbers, int16: a sine of one of three frequencies, with noise."""

    name, class_names, skipped = "waves", ["slow", "middle", "fast"], 0

    def prepare(self):
        pass

    def load(self, split):
        if (count := {"train": 240, "val": 60, "test": 60}.get(split)) is None:
            return None
        generator, labels = np.random.default_rng(count), np.arange(count) % 3
        phase = generator.uniform(0, 2 * np.pi, (count, 1)) + np.arange(40) * 0.2 * (1 + labels[:, None])
        return ArrayExamples((300 * np.sin(phase) + generator.normal(0, 60, phase.shape)).astype(np.int16), labels)


class Windows(Views):
    """Two windows of different lengths; the whole sequence is evaluated."""

    def __init__(self, seed):
        self.seed = seed

    def __len__(self):
        return 2

    def augment(self, raw, index, epoch):
        return tuple(self._window(raw, index, epoch, view, length) for view, length in enumerate((24, 32)))

    def _window(self, raw, index, epoch, view, length):
        start = (uniforms(self.seed, epoch, view, index, 1) * (41 - length)).long()
        return self.plain(raw.gather(1, start + torch.arange(length)))

    def plain(self, raw):
        return raw.float() / 300


class Means(torch.nn.Module):
    """Sequences [B, L] of any length -> features [B, 12]."""

    num_features = 12

    def __init__(self):
        super().__init__()
        self.filters = torch.nn.Conv1d(1, 12, 9)

    def forward(self, sequences):
        return self.filters(sequences[:, None]).relu().mean(dim=2)


@pytest.mark.parametrize(
    "model", ["simclr", "mocov2", "nnclr", "supcon", pytest.param("instdisc", marks=pytest.mark.slow)]
)
def test_every_method_trains_on_it(model, tmp_path):
    queue = ["model.queue_size=128"] if model in ("mocov2", "nnclr") else []
    assert start(tmp_path / "run", [*SETTINGS, f"model={model}", *queue, "trainer.max_epochs=2"]) == 0
    summary = kindred.load_run(tmp_path / "run").summary
    assert summary["val/knn_top1"] > 0.6  # of three classes
    assert "pixels/knn_top1" not in summary  # sequences have no such base line
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"curves.png"}  # and are no pictures


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("own") / "run"
    assert start(directory, SETTINGS) == 0
    return directory


def test_it_is_resumed_to_the_bit(whole, tmp_path):
    assert start(tmp_path / "run", SETTINGS, lambda: add_callback(At(5, kill_self))) == -signal.SIGKILL
    assert resume(tmp_path / "run") == 0
    assert_same(outcome(tmp_path / "run"), outcome(whole))


def test_it_is_evaluated(whole):
    assert in_child(lambda: evaluate(kindred.load_run(whole, trust=OWN)) and None) == 0
    result = json.loads((whole / "evaluation.json").read_text())
    assert result["test/linear_top1"] > 0.8
    assert not any(name.startswith("pixels") for name in result)


@pytest.mark.parametrize("format", ["safetensors", "torch-export"])
def test_it_is_exported(whole, tmp_path, format):
    run = kindred.load_run(whole, trust=OWN)
    path = export(run, format, tmp_path)
    sequences = torch.randn(5, 40)
    loaded = load_encoder(path, trust=OWN) if format == "safetensors" else torch.export.load(path).module()
    with torch.inference_mode():
        assert torch.allclose(loaded(sequences), run.encoder(sequences), atol=1e-6)
    assert "In: float32 [B, 40], any B." in (tmp_path / "README.md").read_text()
