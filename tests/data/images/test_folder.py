"""Folders of images: what is listed, what is cached, when the cache is still true, and what errors say."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kindred.data.cache import build_once
from kindred.data.images import decoded as decoded_images
from kindred.data.images.datamodule import ImageDataModule
from kindred.data.images.files import ImageFiles
from kindred.data.images.folder import ImageFolder
from kindred.data.images.formats import decoding, parallel
from kindred.data.images.views import MultiView, View
from kindred.data.loading import Subset
from kindred.data.source import ArrayExamples


def write(path, seed, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "images"
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write(root / split / name / f"{i}.{('jpg', 'PNG', 'webp', 'bmp')[i]}", 10 * label + i)
    return root


def load(root, split="train", **settings):
    source = ImageFolder(str(root), **({"image_size": 16} | settings))
    source.prepare()
    return source, source.load(split)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Decoding


def test_cache_equals_decoding_each_file_with_torchvision(root):
    from torchvision.transforms import v2

    source, array = load(root)
    assert isinstance(array, ArrayExamples)
    assert array.array.dtype == np.uint8
    assert array.labels.tolist() == [0] * 4 + [1] * 4
    assert source.class_names == ["cat", "dog"]
    transform = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])
    for image, name in zip(array.array, source._list("train").names, strict=True):
        reference = transform(Image.open(root / "train" / name.decode()).convert("RGB"))
        assert (image == np.asarray(reference).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 33), (50, 31), (9, 12)])
def test_centre_is_torchvisions(size):
    from torchvision.transforms import v2

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    reference = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])(image)
    assert (np.asarray(decoding.centre(image, 16)) == np.asarray(reference)).all()


def test_grey(root):
    _, array = load(root, channels=1, mean=[0.5], std=[0.2])
    assert array.array.shape == (8, 1, 16, 16)


def test_parallel_decoding_equals_serial(tmp_path, monkeypatch):
    root = tmp_path / "images"
    for i in range(1100):
        write(root / "train" / f"class{i % 2}" / f"{i:04}.bmp", i, (8, 8))
    (root / "train" / "class1" / "0777.bmp").write_bytes(b"not an image")
    cached = []
    for cpus, cache in ((2, "parallel"), (1, "serial")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: range(cpus))
        source, array = load(root, image_size=8, cache_dir=tmp_path / cache, on_bad_image="skip")
        assert source.skipped == 1
        cached.append(array)
    assert (cached[0].array == cached[1].array).all()
    assert (cached[0].labels == cached[1].labels).all()


def test_streaming_gives_files(root):
    source, files = load(root, stream=True)
    assert isinstance(files, ImageFiles)
    assert files.path(0) == str(root / "train" / "cat" / "0.jpg")
    assert not (root / ".kindred").exists()
    assert source.class_names == ["cat", "dog"]


# The cache


def decoded(monkeypatch):
    """A list that grows by one with every file decoded."""
    seen = []
    original = decoding.decode
    monkeypatch.setattr(parallel, "decode", lambda path, *args, **kw: seen.append(path) or original(path, *args, **kw))
    return seen


def test_second_start_decodes_nothing(root, monkeypatch):
    _, before = load(root)
    seen = decoded(monkeypatch)
    _, again = load(root)
    assert not seen
    assert (before.array == again.array).all()
    assert isinstance(again.array.base.base, np.memmap)  # of which it is a slice


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed"])
def test_cache_follows_the_files(root, monkeypatch, change):
    load(root)
    file = root / "train" / "cat" / "1.PNG"
    if change == "content":
        status = file.stat()
        write(file, 99, (41, 33))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(0, 1))
    elif change == "added":
        write(root / "train" / "cat" / "9.png", 5)
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("8.PNG"))
    seen = decoded(monkeypatch)
    _, array = load(root)
    assert len(seen) == len(array.array) == {"added": 9, "removed": 7}.get(change, 8)  # and test/ is left alone
    assert len(list((root / ".kindred").glob("train-*"))) == 1  # the outdated one is gone


def test_each_setting_has_its_cache(root):
    load(root), load(root, image_size=8), load(root, image_size=8, channels=1, mean=[0.5], std=[0.5])
    assert len(list((root / ".kindred").glob("train-*"))) == 3


def test_cache_dir_may_be_shared(root, tmp_path):
    other = tmp_path / "elsewhere" / "images"
    write(other / "train" / "x" / "0.png", 3)
    for _ in range(2):
        assert len(load(root, cache_dir=tmp_path / "cache")[1].labels) == 8
        assert len(load(other, cache_dir=tmp_path / "cache")[1].labels) == 1
    assert not (root / ".kindred").exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_no_cache(root, monkeypatch, failure):
    def fail(*_):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(decoded_images, "decode_all", fail)
        with pytest.raises(failure):
            load(root)
    assert not list((root / ".kindred").iterdir())
    assert len(load(root)[1].array) == 8


def test_a_killed_build_is_not_taken_for_a_cache(tmp_path):
    """SIGKILL runs no `finally`: what it leaves has another name, until the next start deletes it."""
    folder = tmp_path / "cache"
    pid = os.fork()
    if pid == 0:
        build_once(folder, lambda place: (place / "half").write_text("x") and os._exit(9), key="key")
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 1
    build_once(folder, lambda place: (place / "whole").write_text("x"), key="key")
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_two_processes_may_build_the_same_cache(tmp_path):
    folder = tmp_path / "cache"

    def other_is_faster(place):
        (place / "mine").write_text("x")
        build_once(folder, lambda place: (place / "theirs").write_text("x"), key="key")

    build_once(folder, other_is_faster, key="key")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_cache(root, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"data\.source\.cache_dir: cannot write to .*file"):
        load(root, cache_dir=tmp_path / "file")


def test_too_little_space(root, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"data\.source\.cache_dir: 8 decoded images .* data\.source\.stream=true"):
        load(root)


def test_packed_space_is_counted_at_the_packed_size(root, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8 * 3 * 24 * 24 - 1))
    with pytest.raises(
        OSError, match=r"data\.source\.cache_dir: 8 decoded images of 24 pixels .* or data\.source\.pack"
    ):
        load(root, pack=24)
    assert not list((root / ".kindred").iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=8 * 3 * 24 * 24))
    assert len(load(root, pack=24)[1].array) == 8


# Packed: stored larger than they are looked at


@pytest.mark.parametrize("stream", [False, True])
def test_packed_squares_are_pillows(root, monkeypatch, stream):
    source, array = load(root, pack=24, stream=stream)
    assert array.array.shape == (8, 3, 24, 24)
    for image, name in zip(array.array, source._list("train").names, strict=True):
        original = Image.open(root / "train" / name.decode()).convert("RGB")
        resized = original.resize((32, 24), Image.Resampling.BILINEAR)  # of 40 x 30
        assert (image == np.asarray(resized.crop((4, 0, 28, 24))).transpose(2, 0, 1)).all()
    seen = decoded(monkeypatch)
    _, again = load(root, pack=24, stream=stream)
    assert not seen
    assert (again.array == array.array).all()


def test_packed_images_are_evaluated_as_streamed_ones(tmp_path):
    """With image_size 28 streaming resizes to 32 and looks at the central 28 pixels, as with 224 to 256."""
    for i, size in enumerate([(40, 30), (30, 41), (77, 32), (28, 91), (32, 32), (33, 50)]):
        write(tmp_path / "train" / "x" / f"{i}.png", i, size)
    everything = np.arange(6)
    views = MultiView([View(size=28), View(size=28)], seed=0)
    packed = Subset(load(tmp_path, image_size=28, pack=32)[1], everything, views)
    streamed = Subset(load(tmp_path, image_size=28, stream=True)[1], everything, views)
    for items in ([5, 0, 3], [1, 2, 4]):
        for ours, theirs in zip(packed.__getitems__(items), streamed.__getitems__(items), strict=True):
            assert torch.equal(ours, theirs)


def test_packed_images_train_whole_and_a_batch_at_a_time(root):
    _, array = load(root, image_size=14, pack=16)
    positions = np.array([7, 2, 4])
    batch = Subset(array, positions, None).train_items(np.array([2, 0]), epoch=3)
    assert (batch.raw.numpy() == array.array[[4, 7]]).all()
    assert batch.labels.tolist() == [1, 1]
    assert batch.index.tolist() == [4, 7]
    assert batch.raw.is_contiguous()


def test_packed_images_through_the_datamodule(root):
    source = ImageFolder(str(root), image_size=14, pack=16)
    views = MultiView([View(size=14), View(size=14)], seed=0)
    data = ImageDataModule(source, views, batch_size=4, image_size=14, channels=3, val_size=2)
    data.setup()
    assert next(iter(data.train_dataloader())).raw.shape == (4, 3, 16, 16)
    assert next(iter(data.val_dataloader()[1])).raw.shape == (2, 3, 14, 14)


def test_skipped_images_leave_no_gap_in_a_pack(root):
    _, whole = load(root, pack=24)
    truncate(root / "train" / "cat" / "1.PNG")
    truncate(root / "train" / "dog" / "2.webp")
    source, rest = load(root, pack=24, on_bad_image="skip")
    assert source.skipped == 2
    assert (rest.array == np.delete(whole.array, [1, 6], axis=0)).all()
    assert rest.labels.tolist() == [0] * 3 + [1] * 3


@pytest.mark.parametrize("gone", [[0], [999], [255, 256], list(range(100, 700))])
def test_rows_are_moved_up_in_place(tmp_path, gone):
    array = np.random.default_rng(0).integers(0, 256, (1000, 2)).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    kept = np.delete(np.arange(1000), gone)
    parallel.keep_rows(tmp_path / "a.npy", kept)
    assert (np.load(tmp_path / "a.npy")[: len(kept)] == array[kept]).all()
    assert len(list(tmp_path.iterdir())) == 1


# Bad images


@pytest.mark.parametrize("stream", [False, True])
def test_skipped_images_are_counted(root, stream):
    truncate(root / "train" / "cat" / "0.jpg")
    (root / "train" / "dog" / "2.webp").write_bytes(b"")
    for _ in range(2):  # also when the cache is there
        source, found = load(root, on_bad_image="skip", stream=stream)
        assert source.skipped == 2
        assert found.labels.tolist() == [0] * 3 + [1] * 3
    source = ImageFolder(str(root), 16, on_bad_image="skip", stream=stream)
    source.load("test")
    assert source.skipped == 0


def test_rows_of_skipped_images_are_removed(root):
    _, whole = load(root)
    truncate(root / "train" / "cat" / "1.PNG")
    _, rest = load(root, on_bad_image="skip")
    assert (rest.array == np.delete(whole.array, 1, axis=0)).all()


def test_bad_image_is_named(root):
    truncate(root / "train" / "cat" / "0.jpg")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"train/cat/0\.jpg cannot be decoded .*on_bad_image=skip"):
            load(root)
    load(root, on_bad_image="skip")
    with pytest.raises(ValueError, match=r"train/cat/0\.jpg cannot be decoded.*on_bad_image=skip"):
        load(root)  # the cache is there, but what it lacks must not be lacking


def test_no_good_image(root):
    for path in (root / "train").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"data\.source\.root: none of the 8 images in .*train can be decoded"):
        load(root, on_bad_image="skip")


# Without labels


def test_images_without_labels(tmp_path, capsys):
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    source, train = load(tmp_path)
    assert train.labels.tolist() == [-1] * 3
    assert (source.class_names, source.load("val"), source.load("bank")) == ([], None, None)
    assert (
        f"data.source.root: the 3 images in {tmp_path} have no labels, so no accuracy is logged"
        in capsys.readouterr().err
    )


def test_a_labelled_val_folder_judges_unlabelled_images(tmp_path, capsys):
    write(tmp_path / "train" / "0.png", 0)
    for number, name in enumerate(("a", "b")):
        write(tmp_path / "val" / name / "0.png", number)
    source, bank = load(tmp_path, "bank")
    assert bank.labels.tolist() == [0, 1]
    assert (source.class_names, source.load("val")) == (["a", "b"], None)
    assert "the 1 images in" in (said := capsys.readouterr().err)
    assert "have no labels (those that judge do)" in said


@pytest.mark.parametrize(("labels", "judged"), [("auto", True), ("none", False)])
def test_accuracies_mean_something_with_labels_of_two_classes_only(root, labels, judged):
    for split in ("val", "test"):
        for path in (root / split).glob("*/*"):
            path.unlink()
    data = ImageDataModule(
        ImageFolder(str(root / "train"), 8, labels=labels), MultiView([View(), View()], 0), 2, 8, 3, val_size=2
    )
    data.setup()
    assert (data.is_judged, data.train_is_labelled) == (judged, judged)
    for path in (root / "train" / "dog").iterdir():
        path.unlink()
    (root / "train" / "dog").rmdir()
    one = ImageDataModule(
        ImageFolder(str(root / "train"), 8, labels=labels), MultiView([View(), View()], 0), 2, 8, 3, val_size=2
    )
    one.setup()
    assert (one.is_judged, one.train_is_labelled) == (False, judged)


# How files are read


def test_how_files_are_read_names_the_cache(root):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 20), dtype=np.uint16)
    for split in ("train", "test"):
        Image.fromarray(deep).save(root / split / "cat" / "deep.png")
    for path in root.glob("*/*/*"):
        if path.name != "deep.png" and path.parent.name == "cat":
            path.unlink()
    for path in (root / "train" / "dog").iterdir():
        Image.fromarray(deep).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    for path in (root / "test" / "dog").iterdir():
        Image.fromarray(deep).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    kinds = [{}, {"range": (0, 4095)}, {"range": (0, 4095.5)}, {"background": (0, 0, 0)}]
    arrays = [load(root, **kind)[1].array for kind in kinds]
    assert (arrays[0] != arrays[1]).any()
    assert (arrays[1] != arrays[2]).any()
    assert len(list((root / ".kindred").glob("train-*"))) == len(kinds)  # none takes another for outdated


@pytest.mark.parametrize("stream", [False, True])
def test_files_of_several_pictures_are_said_once(tmp_path, capsys, stream):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (30, 200)]
    write(tmp_path / "0.png", 0)
    for number in (1, 2):
        frames[0].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[1:])
    load(tmp_path, stream=stream)
    said = [line for line in capsys.readouterr().err.splitlines() if "holds files" in line]
    assert said == [
        f"data.source.root: {tmp_path} holds files of several pictures, such as 1.gif: the first of each is taken"
    ]


def test_what_was_skipped_is_listed_with_its_reason(root):
    truncate(root / "train" / "cat" / "1.PNG")
    (root / "train" / "dog" / "2.webp").write_bytes(b"")
    os.mkfifo(root / "train" / "dog" / "7.png")
    os.symlink("nowhere", root / "train" / "dog" / "8.png")
    for _ in range(2):  # also when the cache is there
        source, train = load(root, on_bad_image="skip")
        assert len(train.labels) == 6
        (pipe, link, torn, empty) = source.skipped_files
        assert pipe == (os.path.join("train", "dog", "7.png"), "is a pipe")
        assert link == (os.path.join("train", "dog", "8.png"), "is a link to nowhere")
        assert empty == (os.path.join("train", "dog", "2.webp"), "cannot be decoded (it is empty)")
        assert torn[0] == os.path.join("train", "cat", "1.PNG")
        assert torn[1].startswith("cannot be decoded (OSError: ")
        assert str(root) not in torn[1]


# Layout


def test_splits(root):
    source, test = load(root, "test")
    assert len(test.labels) == 4
    assert source.load("val") is None
    assert source.load("bank") is None
    write(root / "val" / "cat" / "0.png", 0)
    write(root / "val" / "dog" / "0.png", 0)
    assert len(load(root, "val")[1].labels) == 2


def test_hidden_and_other_files_are_not_images(root):
    (root / "train" / "cat" / ".hidden.jpg").write_text("x")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / ".cache").mkdir()
    assert len(load(root)[1].labels) == 8


def test_missing_test_is_an_error_when_asked_for(root):
    for path in (root / "test").glob("*/*"):
        path.unlink()
    for path in sorted((root / "test").glob("**"), reverse=True):
        path.rmdir()
    source, _ = load(root)
    with pytest.raises(ValueError, match=r"data\.source\.root: .*images has no test images; expected <root>/train/"):
        source.load("test")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.with_name("gone")), r"there is no folder .*images; expected <root>/train"),
        (lambda root: (root / "train").rename(root / "training"), r"there is no folder .*images/train; expected"),
        (lambda root: (root / "train" / "bird").mkdir(), r"train/bird has no images .*; expected"),
        (lambda root: (root / "val").mkdir(), r"images/val has no class folders; expected"),
        (
            lambda root: (root / "test" / "cat").rename(root / "test" / "kitten"),
            r"test and its train/ have .*: missing \['cat'\], not in train \['kitten'\]",
        ),
    ],
)
def test_wrong_layouts_are_explained(root, spoil, message):
    spoil(root)
    with pytest.raises(ValueError, match=r"data\.source\.root: .*" + message):
        load(root)


def test_bad_settings():
    with pytest.raises(ValueError, match=r"data\.source\.on_bad_image is 'ignore'"):
        ImageFolder("x", 16, on_bad_image="ignore")
    for labels in ("folders", "labels.txt", ""):
        with pytest.raises(
            ValueError, match=rf"data\.source\.labels is '{labels}': choose auto, none, or a file .*\.csv"
        ):
            ImageFolder("x", 16, labels=labels)
    for ends in ((1, 1), (4095, 0), (0, float("nan"))):
        with pytest.raises(ValueError, match=r"data\.source\.range is \[.*\]: give the value that becomes black"):
            ImageFolder("x", 16, range=ends)
    for pack in (223, 0, True, 256.0):
        with pytest.raises(ValueError, match=rf"data\.source\.pack is {pack}: .* data\.image_size=224 up, .* 256"):
            ImageFolder("x", 224, pack=pack)


def test_constructor_does_no_work():
    ImageFolder("/nowhere", 16)


# Real data, where it has been unpacked (see the design's "Data at hand")


@pytest.mark.skipif(not os.path.isdir("data/cifar10-jpg"), reason="data/cifar10-jpg is not there")
def test_second_start_with_60_000_files_is_quick():
    load("data/cifar10-jpg", image_size=32)
    start = time.perf_counter()
    _, array = load("data/cifar10-jpg", image_size=32)
    seconds = time.perf_counter() - start
    assert array.array.shape == (50_000, 3, 32, 32)
    assert (np.bincount(array.labels) == 5000).all()
    assert seconds < 10  # decoding them takes longer
