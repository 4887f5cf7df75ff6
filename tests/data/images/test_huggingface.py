"""Data sets of Hugging Face's, as its library and pyarrow write them: pixels, labels, splits, and what errors say."""

import importlib.util
import io
import os
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from children import in_child
from PIL import Image

import kindred
from kindred.commands.evaluate import main as evaluate
from kindred.commands.train import main
from kindred.config import ConfigError
from kindred.data.images.folder import ImageFolder
from kindred.data.images.huggingface import source as module
from kindred.data.images.huggingface.rows import TableImages
from kindred.data.images.huggingface.source import HuggingFace
from kindred.data.images.views import MultiView, View
from kindred.data.source import ArrayExamples
from kindred.runs.reading.weights import read_checkpoint

NAMES = ["cat", "dog"]
FEATURES = datasets.Features(
    {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "score": datasets.Value("float32")}
)
COUNTS = {"train": 6, "validation": 4, "test": 2}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """What the library and Kindred keep."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


def picture(seed, size=(40, 30)):
    """The bytes of a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def tables(counts=COUNTS, spoil=None):
    """Classes in turn; `spoil`: content of train's second image."""
    found = {}
    for number, (split, count) in enumerate(counts.items()):
        images = [{"bytes": picture(100 * number + i), "path": None} for i in range(count)]
        if spoil is not None and split == "train":
            images[1] = {"bytes": spoil, "path": None}
        columns = {"image": images, "label": [i % 2 for i in range(count)], "score": [0.5] * count}
        found[split] = datasets.Dataset.from_dict(columns, features=FEATURES)
    return datasets.DatasetDict(found)


@pytest.fixture
def parquet(tmp_path):
    folder = tmp_path / "pets"
    folder.mkdir()
    for split, table in tables().items():
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def files(tmp_path):
    """The same images as a folder of files; val is their validation."""
    for number, (split, count) in enumerate(COUNTS.items()):
        for i in range(count):
            path = tmp_path / "files" / split.replace("idation", "") / NAMES[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(100 * number + i))
    return tmp_path / "files"


def load(path, split="train", **settings):
    source = HuggingFace(str(path), **({"image_size": 16} | settings))
    source.prepare()
    return source, source.load(split)


def folder_order(count):
    """Where a folder, which lists class by class, has row i."""
    return [i // 2 + (i % 2) * ((count + 1) // 2) for i in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_stored_images_are_those_of_the_same_files_in_a_folder(parquet, files, split, channels):
    settings = {"image_size": 16, "channels": channels, "mean": [0.5] * channels, "std": [0.2] * channels}
    source, found = load(parquet, split, **settings)
    folder = ImageFolder(str(files), **settings)
    folder.prepare()
    expected = folder.load(split)
    order = folder_order(len(expected.labels))
    assert isinstance(found, ArrayExamples)
    assert found.array.dtype == np.uint8
    assert np.array_equal(found.array, expected.array[order])
    assert np.array_equal(found.labels, expected.labels[order])
    assert found.labels.dtype == np.int64
    assert source.class_names == folder.class_names == NAMES
    assert source.load("bank") is None


def test_streamed_images_are_cropped_as_those_of_the_same_files_are(parquet, files):
    """A crop is a function of (seed, epoch, index, view): what differs is only where each image stands."""
    views = MultiView([View(size=12), View(size=12)], seed=3)
    _, found = load(parquet, stream=True)
    folder = ImageFolder(str(files), image_size=16, stream=True)
    expected = folder.load("train")
    expected = expected._replace(names=expected.names[folder_order(6)])
    positions = np.array([4, 0, 5])
    assert isinstance(found, TableImages)
    assert not os.path.exists("data")
    assert np.array_equal(found.read(positions), expected.read(positions))
    for epoch in (0, 7):
        crops = found.read_train(positions, epoch, views)
        assert crops.shape == (3, 2, 3, 12, 12)
        assert np.array_equal(crops, expected.read_train(positions, epoch, views))


def test_a_saved_data_set_and_one_table_of_it(tmp_path, parquet):
    tables().save_to_disk(tmp_path / "saved")
    tables()["train"].save_to_disk(tmp_path / "one")
    _, expected = load(parquet)
    for path in ("saved", "one"):
        source, found = load(tmp_path / path)
        assert np.array_equal(found.array, expected.array)
        assert np.array_equal(found.labels, expected.labels)
        assert (source.load("val") is None) == (path == "one")


def write_plain(path, columns):
    """Parquet as pyarrow or pandas write it, which says nothing of images."""
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("form", ["bytes", "struct", "paths"])
def test_plain_columns_and_a_single_file(tmp_path, parquet, form):
    contents = [picture(i) for i in range(6)]
    column = {"bytes": contents, "struct": [{"bytes": c, "path": "x.png"} for c in contents]}
    (tmp_path / "loose").mkdir()
    for i, content in enumerate(contents):
        (tmp_path / "loose" / f"{i}.png").write_bytes(content)
    column["paths"] = [str(tmp_path / "loose" / f"{i}.png") for i in range(6)]
    path = write_plain(tmp_path / "plain" / "rows.parquet", {"picture": column[form], "label": [0, 1] * 3})
    for stream in (False, True):
        _, found = load(path, image="picture", stream=stream)
        _, expected = load(parquet, stream=stream)
        assert np.array_equal(found.read(np.arange(6)), expected.read(np.arange(6)))
        assert np.array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [
        (["b", "a", None, "b", "c", "a"], ["a", "b", "c"], [1, 0, -1, 1, 2, 0]),
        ([30, 4, -1, 4, None, 100], ["4", "30", "100"], [1, 0, -1, 0, -1, 2]),
        ([True, False, None, True, True, False], ["False", "True"], [1, 0, -1, 1, 1, 0]),
        ([None] * 6, [], [-1] * 6),
    ],
)
def test_labels_are_texts_or_numbers_and_may_be_missing(tmp_path, column, classes, labels):
    images = [picture(i) for i in range(6)]
    path = write_plain(tmp_path / "plain" / "rows.parquet", {"image": images, "label": column})
    source, found = load(path)
    assert source.class_names == classes
    assert found.labels.tolist() == labels


def test_without_a_label_column_nothing_is_labelled(parquet):
    source, found = load(parquet, label=None)
    assert source.class_names == []
    assert found.labels.tolist() == [-1] * 6


def test_a_name_on_the_hub_is_asked_for_with_subset_and_revision(parquet, monkeypatch):
    asked, library = [], datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: asked.append((args, kw)) or library(str(parquet)))
    source, found = load("somebody/pets", subset="small", revision="0a1b2c")
    assert asked == [(("somebody/pets",), {"name": "small", "revision": "0a1b2c"})]
    assert source.cache_dir.name.startswith("pets-")
    monkeypatch.setattr(datasets, "load_dataset", library)
    assert np.array_equal(found.array, load(parquet)[1].array)
    folder, names = source._tables.files("train")  # the library's copy
    assert [name.partition("/")[0] for name in names] == ["pets"]
    assert all(os.path.isfile(os.path.join(folder, name)) for name in names)


def test_splits_by_name(tmp_path):
    tables({"unsupervised": 6, "train": 4, "dev": 2}).save_to_disk(tmp_path / "saved")
    source, found = load(tmp_path / "saved", train="unsupervised", bank="train", test="dev")
    assert len(found.labels) == 6
    assert [len(source.load(split).labels) for split in ("bank", "test")] == [4, 2]
    assert source.load("val") is None  # dev is the test split
    assert len(load(tmp_path / "saved", "val")[1].labels) == 2


def counted(monkeypatch):
    """A list that grows by one with every chunk decoded."""
    seen, original = [], module.Chunks.__getitem__
    monkeypatch.setattr(module.Chunks, "__getitem__", lambda self, number: seen.append(1) or original(self, number))
    return seen


def test_the_cache_follows_the_table(parquet, monkeypatch):
    _, before = load(parquet)
    seen = counted(monkeypatch)
    assert np.array_equal(load(parquet)[1].array, before.array)
    assert not seen
    tables({"train": 4})["train"].to_parquet(parquet / "train-00000-of-00001.parquet")
    source, found = load(parquet)
    assert len(found.labels) == 4
    assert len(list(source.cache_dir.glob("train-*"))) == 1  # the outdated one is gone


def test_a_run_can_tell_that_the_table_has_changed(parquet):
    before = load(parquet)[0].inventory("train")
    assert before.names.tolist() == [f"{split}-00000-of-00001.parquet".encode() for split in sorted(COUNTS)]
    tables({"train": 4})["train"].to_parquet(parquet / "train-00000-of-00001.parquet")
    source, _ = load(parquet)
    assert source.inventory("train").sizes[1] != before.sizes[1]
    assert source.inventory("bank") is None


@pytest.mark.slow
def test_many_rows_are_decoded_by_processes_in_their_order(tmp_path, monkeypatch):
    count = 16 * 64 + 5
    contents = [picture(i % 7, (8 + i % 3, 8)) for i in range(count)]
    contents[777] = b"no image"
    path = write_plain(tmp_path / "plain" / "rows.parquet", {"image": contents})
    found = []
    for cpus in (2, 1):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: range(cpus))
        before = torch.get_rng_state()
        settings = {"image_size": 8, "label": None, "on_bad_image": "skip"}
        found.append(load(path, cache_dir=str(tmp_path / str(cpus)), **settings)[1].array)
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0].shape == (count - 1, 3, 8, 8)
    assert np.array_equal(*found)
    reference = Image.open(io.BytesIO(contents[778])).convert("RGB")
    left = round((reference.width - 8) / 2)
    assert np.array_equal(found[0][777], np.asarray(reference)[:, left : left + 8].transpose(2, 0, 1))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("content", [b"", b"no image", picture(1)[:900]], ids=["empty", "text", "cut"])
def test_bad_images_are_named_or_left_out(tmp_path, stream, content):
    tables(spoil=content).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        ConfigError, match=r"^[^\n]*saved, train, row 1 cannot be decoded \([^\n]*on_bad_image=skip[^\n]*$"
    ):
        load(tmp_path / "saved", stream=stream)[1].read(np.arange(6))
    for _ in range(2):  # also when the cache is there
        source, found = load(tmp_path / "saved", stream=stream, on_bad_image="skip")
        assert source.skipped == 1
        assert source.skipped_files[0][0] == "train, row 1"
        assert found.labels.tolist() == [0, 0, 1, 0, 1]
        whole = load(tmp_path / "saved", "val", stream=stream)[1]
        assert len(whole.labels) == 4
    views = MultiView([View(size=12), View(size=12)], seed=3)
    assert found.read_train(np.arange(5), 0, views).shape[0] == 5
    if not stream:
        with pytest.raises(ConfigError, match=r"row 1 cannot be decoded"):
            load(tmp_path / "saved")  # the cache is there, but what it lacks must not be lacking


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "img"}, r"^data\.source\.image is 'img': .* did you mean 'image'\? Columns: image, label, score$"),
        ({"label": "lable"}, r"^data\.source\.label is 'lable': .* did you mean 'label'\? Columns: image, label, score$"),
        ({"image": "label"}, r"^data\.source\.image is 'label', which holds ClassLabel.*: images are Image features, or"),
        ({"label": "score"}, r"^data\.source\.label is 'score', which holds Value\('float32'\): labels are ClassLabel,"),
        ({"label": "image"}, r"^data\.source\.label is 'image', which holds Image"),
        ({"train": "trian"}, r"^data\.source\.train is 'trian': .*pets has no such split, but train, validation, test$"),
        ({"val": "dev"}, r"^data\.source\.val is 'dev': .*pets has no such split, but train, validation, test$"),
        ({"test": "train"}, r"^data\.source\.test is 'train', and so is data\.source\.train: choose another$"),
        ({"subset": "red"}, r"^data\.source\.path: .*pets cannot be loaded \(.*red.*\); give a folder of parquet"),
        ({"path": "/no/where"}, r"^data\.source\.path: /no/where cannot be loaded \(FileNotFoundError: .*; give a folder"),
        ({"path": "empty"}, r"^data\.source\.path: empty cannot be loaded \(.*\); give a folder of parquet"),
        ({"path": "text.parquet"}, r"^data\.source\.path: text\.parquet cannot be loaded \(.*\); give a folder"),
        ({"path": "none"}, r"^data\.source\.path: none cannot be loaded|the split train of none has no rows$"),
        ({"channels": 4}, r"^data\.channels is 4"),
        ({"cache_dir": "pets/cache"}, r"^data\.source\.cache_dir: pets/cache lies in data\.source\.path="),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line(parquet, settings, message):
    os.mkdir("empty")
    with open("text.parquet", "w") as file:
        file.write("no table")
    write_plain(Path("none/rows.parquet"), {"image": [], "label": []})
    with pytest.raises(ConfigError, match=message) as caught:
        load(**({"path": parquet} | settings))
    assert str(caught.value).isprintable()
    assert not os.path.exists("data")


def test_a_missing_test_split_is_an_error_when_asked_for(tmp_path):
    tables({"train": 4, "holdout": 2}).save_to_disk(tmp_path / "saved")
    source, _ = load(tmp_path / "saved")
    with pytest.raises(
        ConfigError, match=r"^data\.source\.test: .* has no split test, but train, holdout: name the one"
    ):
        source.load("test")


def test_without_the_library_one_line_says_which_extra_and_nothing_is_begun(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert importlib.util.find_spec("datasets") is None
    assert main(["data=huggingface", "data.source.path=nowhere", "encoder=convnet", "trainer=cpu"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "error: data=huggingface needs the package datasets: make setup, or pip install kindred[huggingface]\n"
    )
    assert os.listdir() == []


def test_a_wrong_column_is_one_line_before_a_run_directory(parquet, capfd):
    words = ["data=huggingface", f"data.source.path={parquet}", "data.source.image=img", "data.image_size=8"]
    assert in_child(lambda: main([*words, "encoder=convnet", "trainer=cpu"])) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: data.source.image is 'img': ")
    assert not os.path.exists("logs")


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_it_trains_the_same_with_workers_goes_on_elsewhere_and_is_judged(tmp_path, stream, capfd):
    """The place: another working directory than the one that a relative path began in."""
    tables({"train": 96, "validation": 32, "test": 32}).save_to_disk(tmp_path / "saved")
    words = [
        *(
            "data=huggingface",
            "data.source.path=saved",
            f"data.source.stream={stream}",
            "encoder=convnet",
            "trainer=cpu",
        ),
        *("data.image_size=16", "data.batch_size=32", "encoder.widths=[8,16]", "model.hidden_dim=32"),
        *("callbacks.knn.k=5", "~callbacks.figures", "trainer.enable_progress_bar=false"),
        *("trainer.check_val_every_n_epoch=1", "trainer.log_every_n_steps=1"),
    ]
    long = [*words, "trainer.max_epochs=2"]
    assert in_child(lambda: main([*long, f"run_dir={tmp_path / 'run'}"])) == 0
    assert in_child(lambda: main([*long, f"run_dir={tmp_path / 'same'}", f"data.num_workers={2 * stream}"])) == 0
    states = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("run", "same")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    assert in_child(lambda: main([f"resume={tmp_path / 'run'}", "trainer.max_epochs=3"])) == 0
    assert in_child(lambda: evaluate(["--run", str(tmp_path / "run")])) == 0
    assert "32 test examples of huggingface, 2 classes" in capfd.readouterr().out
    assert kindred.load_run(tmp_path / "run").summary["epoch"] == 3
