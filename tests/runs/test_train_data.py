"""Whole trainings on the kinds of data that are not one labelled array."""

import json
from pathlib import Path

import numpy as np
import pytest
from children import start
from PIL import Image

from kindred.data.images.embedded import Digits
from kindred.data.source import ArrayExamples
from kindred.tracking.metrics_csv import read_metrics

TINY = ["data.image_size=8", "data.batch_size=8", "views=small", "trainer.max_epochs=1", "data.eval_batch_size=16"]


class UnlabelledDigits(Digits):
    """Digits whose train images have no labels, as STL-10's: the labelled ones are the bank."""

    name = "unlabelled"

    def load(self, split):
        if split == "train":
            train = super().load("train")
            return ArrayExamples(train.array, np.full(len(train.labels), -1))
        return super().load({"bank": "train"}.get(split, split))


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_unlabelled_images_train_and_the_labelled_bank_judges(tmp_path):
    source = "data.source._target_=test_train_data.UnlabelledDigits"
    assert start(tmp_path / "run", [source]) == 0
    assert summary(tmp_path / "run")["val/linear_top1"] > 0.5  # of ten digits; the labels are the bank's
    assert summary(tmp_path / "run")["val/knn_top1"] > 0.5


def test_val_size_0_monitors_on_the_test_split_and_says_so(tmp_path):
    assert start(tmp_path / "run", ["data.val_size=0", "trainer.max_epochs=1"]) == 0
    found = summary(tmp_path / "run")
    assert {"test/knn_top1", "test/knn_top1_best", "test/linear_top1", "untrained/knn_top1"} <= found.keys()
    assert not any(name.startswith("val/") for name in found)
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three classes of 40 noisy JPEG files, one of which is no JPEG."""
    root, generator = tmp_path_factory.mktemp("tree"), np.random.default_rng(0)
    for label, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(40):
            noise = generator.normal(0, 25, (24, 30, 3))
            Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    (root / "train" / "class0" / "broken.jpg").write_bytes(b"no picture")
    return root


@pytest.mark.parametrize(
    "streaming", [pytest.param("data.source.stream=false", marks=pytest.mark.slow), "data.source.stream=true"]
)
def test_a_folder_of_images_trains_and_counts_what_it_skipped(tmp_path, tree, streaming):
    folder = ["data=imagefolder", f"data.source.root={tree}", f"data.source.cache_dir={tmp_path}", "encoder=convnet"]
    skip = "data.source.on_bad_image=skip"
    assert start(tmp_path / "run", [*folder, *TINY, streaming, skip, "data.val_size=30"]) == 0
    found = summary(tmp_path / "run")
    assert found["skipped_files"] == 1
    assert found["val/knn_top1"] > 0.9  # colours tell the classes apart
    steps = read_metrics(tmp_path / "run" / "metrics.csv")[-1]["step"]
    assert steps == (120 - 30) // 8


def test_a_broken_file_is_named(tmp_path, tree, capfd):
    folder = ["data=imagefolder", f"data.source.root={tree}", f"data.source.cache_dir={tmp_path}", "encoder=convnet"]
    assert start(tmp_path / "run", [*folder, *TINY]) == 1
    error = capfd.readouterr().err
    assert str(Path("class0") / "broken.jpg") in error
    assert "on_bad_image" in error
