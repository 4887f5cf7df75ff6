"""Trainings on images without labels, in part or at all, and of unusual kinds."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from children import start
from PIL import Image

from kindred.callbacks.metric_names import metric_names
from kindred.commands.compare import main as compare
from kindred.config import compose
from kindred.runs.run import load_run
from kindred.study.sweeps.checking import check
from kindred.study.sweeps.reading import read_sweep

TINY = [
    *("data=imagefolder", "encoder=convnet", "data.image_size=8", "data.batch_size=8", "views=small"),
    *("trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "data.eval_batch_size=16"),
]
TOO_FEW = {"val/alpha_req", "val/projector_alpha_req"}  # images here, for the eigenvalues that alpha-ReQ reads
COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


def write_images(folder, count, seed=0, classes=COLOURS):
    """`count` noisy images a class, in <folder>/<class>/."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = generator.normal(0, 25, (10, 12, 3))
            image = Image.fromarray(np.clip(COLOURS[name] + noise, 0, 255).astype(np.uint8))
            image.save(folder / name / f"{number}.png")


def flatten(folder, into):
    """The same files as links, without their folders' names but in their order."""
    into.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.glob("*/*"), key=lambda path: (path.parent.name, path.name))):
        os.symlink(path, into / f"{number:04}{path.suffix}")


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A root of labelled train and val images, and a run on it."""
    root = tmp_path_factory.mktemp("labelled")
    write_images(root / "train", 8)
    write_images(root / "val", 6, seed=1)
    assert start(root / "run", [*TINY, f"data.source.root={root}"]) == 0
    return root


@pytest.mark.parametrize("kind", ["flat", pytest.param("none", marks=pytest.mark.slow)])
def test_without_labels_it_is_the_same_training_to_the_bit(labelled, tmp_path, kind):
    if kind == "flat":
        flatten(labelled / "train", tmp_path / "root" / "train")
    else:
        (tmp_path / "root").mkdir()
        os.symlink(labelled / "train", tmp_path / "root" / "train")
    os.symlink(labelled / "train", tmp_path / "root" / "bank")
    os.symlink(labelled / "val", tmp_path / "root" / "val")
    labels = "auto" if kind == "flat" else "none"
    overrides = [*TINY, f"data.source.root={tmp_path / 'root'}", f"data.source.labels={labels}"]
    assert start(tmp_path / "run", overrides) == 0
    ours, theirs = load_run(tmp_path / "run"), load_run(labelled / "run")
    for (name, one), (_, other) in zip(
        ours.module.state_dict().items(), theirs.module.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    data = ours.datamodule()
    data.setup()
    assert (data.train.labels == -1).all()
    for metric in ("val/knn_top1", "untrained/knn_top1", "val/linear_top1", "val/tolerance", "train/loss"):
        assert ours.summary[metric] == theirs.summary[metric]


@pytest.fixture(scope="module")
def unlabelled(labelled):
    """A flat folder, with what is no image beside the images, and a run on it."""
    root = labelled / "flat"
    flatten(labelled / "train", root)
    os.mkfifo(root / "pipe.png")
    (root / "torn.png").write_bytes((root / "0000.png").read_bytes()[:60])
    (root / "empty.png").touch()
    os.symlink("gone", root / "link.png")
    overrides = [*TINY, f"data.source.root={root}", "data.source.on_bad_image=skip"]
    assert start(labelled / "run-flat", overrides) == 0
    return labelled / "run-flat"


def test_a_flat_folder_trains_and_logs_nothing_that_means_nothing(unlabelled):
    found = summary(unlabelled)
    assert {"train/loss", "train/alignment", "val/uniformity", "val/effective_rank"} <= found.keys()
    assert not [name for name in found if "top" in name or "tolerance" in name]
    assert all(np.isfinite(value) for value in found.values())
    assert metric_names(load_run(unlabelled).config) - found.keys() <= TOO_FEW
    assert {path.name for path in (unlabelled / "checkpoints").iterdir()} == {"last.ckpt"}
    assert {path.name for path in (unlabelled / "figures").iterdir()} == {"curves.png", "neighbours.png", "views.png"}


def test_what_was_skipped_stands_in_the_run_with_the_reason(unlabelled):
    assert summary(unlabelled)["skipped_files"] == 4
    with open(unlabelled / "skipped.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"]
    assert [path for path, _ in rows] == ["empty.png", "link.png", "pipe.png", "torn.png"]
    assert [reason for _, reason in rows[:3]] == [
        "cannot be decoded (it is empty)",
        "is a link to nowhere",
        "is a pipe",
    ]
    assert rows[3][1].startswith("cannot be decoded (OSError: ")


def test_a_run_without_labels_is_compared(unlabelled, labelled, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare([str(unlabelled), str(labelled / "run")]) == 0
    assert "uniformity" in capsys.readouterr().out


def test_a_sweep_whose_metric_needs_labels_is_refused(unlabelled, labelled):
    def sweep(root, *more):
        return check(read_sweep("temperature").with_overrides(["data=imagefolder", f"data.source.root={root}", *more]))

    with pytest.raises(
        ValueError, match=r"metric\.name is 'val/knn_top1', .*, since the images in .*flat have no labels"
    ):
        sweep(labelled / "flat")
    assert sweep(labelled).data.source.labels == "auto"
    assert sweep(labelled, "data.source.labels=none")  # val/ judges
    with pytest.raises(ValueError, match=r"metric\.name is 'val/knn_top1'"):
        sweep(labelled / "train", "data.source.labels=none")


@pytest.mark.slow
def test_one_class_trains_as_unlabelled_images_do(tmp_path):
    write_images(tmp_path / "train", 20, classes=["red"])
    assert start(tmp_path / "run", [*TINY, f"data.source.root={tmp_path}"]) == 0
    assert not [name for name in summary(tmp_path / "run") if "top" in name or "tolerance" in name]
    assert metric_names(compose([*TINY, f"data.source.root={tmp_path}"])) - summary(tmp_path / "run").keys() <= TOO_FEW


@pytest.mark.slow
@pytest.mark.parametrize("model", ["simclr", "supcon"])
def test_half_labelled_images_judge_by_what_is_known(tmp_path, model):
    root = tmp_path / "root"
    write_images(root, 20)
    rows = [(f"{name}/{number}.png", name if number % 2 else "") for name in COLOURS for number in range(20)]
    (root / "labels.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    overrides = [
        *TINY,
        f"data.source.root={root}",
        "data.source.labels=labels.csv",
        f"model={model}",
        "data.val_size=18",
    ]
    assert start(tmp_path / "run", overrides) == 0
    run = load_run(tmp_path / "run")
    assert run.summary["val/knn_top1"] > 0.8  # colours tell the classes apart
    data = run.datamodule()
    data.setup()
    assert (data.bank.labels >= 0).all()
    assert 0 < len(data.bank) < len(data.train) == 42
    assert sorted(set(data.query.labels.tolist())) == [-1, 0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["data.source.stream=true", "data.source.stream=false"])
def test_images_of_many_channels_train(tmp_path, streaming):
    (tmp_path / "train").mkdir()
    for number in range(30):
        array = np.random.default_rng(number).integers(0, 4096, (10, 12, 5), dtype=np.uint16)
        np.save(tmp_path / "train" / f"{number}.npy", array)
    statistics = ["data.source.mean=[.5,.5,.5,.5,.5]", "data.source.std=[.3,.3,.3,.3,.3]", "data.source.range=[0,4095]"]
    overrides = [*TINY, f"data.source.root={tmp_path}", "data.channels=5", "views=channels", *statistics, streaming]
    assert start(tmp_path / "run", overrides) == 0
    run = load_run(tmp_path / "run")
    assert run.encoder(torch.zeros(2, 5, 8, 8)).shape[0] == 2
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"curves.png"}
