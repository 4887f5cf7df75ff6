"""What is taken for which split, class and image, and what an error says of the rest."""

import os
import socket

import numpy as np
import pytest

from kindred.data.folders.layout import list_splits, may_be_judged
from kindred.data.folders.listing import IMAGES
from kindred.errors import ConfigError


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def listed(root, labels="auto", skip=False):
    """Split -> path below its folder -> the name of its class, or None"""
    found = list_splits(str(root), labels, IMAGES, skip)
    return {
        split: {
            os.fsdecode(name): one.class_names[label] if label >= 0 else None
            for name, label in zip(one.names, one.labels, strict=True)
        }
        for split, one in found.items()
    }


# Without labels


def test_a_flat_root_is_the_train_split_and_unlabelled(tmp_path):
    fill(tmp_path, "b.jpg", "a.PNG", ".hidden.jpg", "notes.txt", ".kindred/c.jpg")
    assert listed(tmp_path) == listed(tmp_path, "none") == {"train": {"a.PNG": None, "b.jpg": None}}
    assert not may_be_judged(str(tmp_path), "auto")


def test_class_folders_in_the_root_are_classes(tmp_path):
    fill(tmp_path, "dog/1.jpg", "cat/1.jpg")
    assert listed(tmp_path) == {"train": {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}}
    assert may_be_judged(str(tmp_path), "auto")
    assert not may_be_judged(str(tmp_path), "none")


def test_a_flat_train_folder_is_unlabelled(tmp_path):
    fill(tmp_path, "train/a.jpg", "val/b.jpg", "test/c.jpg")
    assert listed(tmp_path) == {"train": {"a.jpg": None}, "test": {"c.jpg": None}, "val": {"b.jpg": None}}
    assert not may_be_judged(str(tmp_path), "auto")


def test_nested_folders_that_are_no_classes(tmp_path):
    fill(tmp_path, "2021/may/b.jpg", "2021/a.jpg", "z.jpg", "2020/june/c.jpg")
    assert list(listed(tmp_path, "none")["train"].items()) == [
        (path, None) for path in ("z.jpg", "2020/june/c.jpg", "2021/a.jpg", "2021/may/b.jpg")
    ]


def test_without_their_labels_images_have_the_same_order_and_fingerprint(tmp_path):
    fill(tmp_path, *(f"train/{name}/{number}.jpg" for name in ("cat", "cat-b", "Dog") for number in (10, 9, 1)))
    labelled, unlabelled = (list_splits(str(tmp_path), labels, IMAGES, False)["train"] for labels in ("auto", "none"))
    assert (labelled.names == unlabelled.names).all()
    assert labelled.fingerprint == unlabelled.fingerprint
    assert labelled.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert (unlabelled.labels == -1).all()


def test_a_labelled_val_folder_is_the_bank_of_unlabelled_train_images(tmp_path):
    fill(tmp_path, "train/a.jpg", "val/cat/b.jpg", "val/dog/c.jpg")
    assert listed(tmp_path) == {"train": {"a.jpg": None}, "bank": {"cat/b.jpg": "cat", "dog/c.jpg": "dog"}}
    assert may_be_judged(str(tmp_path), "auto")


def test_a_bank_folder_beside_val(tmp_path):
    fill(tmp_path, "train/x/a.jpg", "val/cat/b.jpg", "val/dog/c.jpg", "bank/cat/d.jpg", "bank/dog/e.jpg")
    found = listed(tmp_path, "none")
    assert found["train"] == {"x/a.jpg": None}
    assert found["bank"] == {"cat/d.jpg": "cat", "dog/e.jpg": "dog"}
    assert found["val"] == {"cat/b.jpg": "cat", "dog/c.jpg": "dog"}
    assert may_be_judged(str(tmp_path), "none")


def test_the_figures_of_runs_in_the_same_place_are_left_out(tmp_path):
    fill(tmp_path, "a.jpg", "logs/x/figures/views.png", "logs/x/config.yaml", "logs/x/metrics.csv")
    assert listed(tmp_path) == {"train": {"a.jpg": None}}
    assert listed(tmp_path, "none") == {"train": {"a.jpg": None}}


# Half-labelled


def test_labels_of_a_file(tmp_path):
    fill(tmp_path, "train/a.jpg", "train/x/b.jpg", "train/c.jpg", "train/d.jpg", "val/e.jpg")
    (tmp_path / "labels.csv").write_text(
        '\ufeffpath,label\ntrain/a.jpg,dog\ntrain/x/b.jpg,"cat, black"\ntrain/c.jpg,\n\nval/e.jpg, dog\n'
    )
    assert listed(tmp_path, "labels.csv") == {
        "train": {"a.jpg": "dog", "c.jpg": None, "d.jpg": None, "x/b.jpg": "cat, black"},
        "val": {"e.jpg": "dog"},
    }


def test_labels_of_a_flat_root(tmp_path):
    fill(tmp_path, "a.jpg", "sub/b.jpg")
    (tmp_path / "labels.csv").write_text("path,label\n./sub/b.jpg,1\n")
    assert listed(tmp_path, "labels.csv") == {"train": {"a.jpg": None, "sub/b.jpg": "1"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"labels\.csv: there is no such file; a path is relative to data\.source\.root"),
        ("", r"labels\.csv: its first line is '' and must be 'path,label'"),
        ("a.jpg,cat\n", r"its first line is 'a\.jpg,cat' and must be 'path,label'"),
        ("path;label\na.jpg;cat\n", r"its first line is 'path;label' and must be"),
        ("path,label\na.jpg\n", r"labels\.csv, line 2: has 1 values and must have a path and a label"),
        ("path,label\na.jpg,cat,dog\n", r"labels\.csv, line 2: has 3 values"),
        ("path,label\na.jpg,cat\n\nsub/../a.jpg,dog\n", r"line 4: sub/\.\./a\.jpg is 'dog' here and 'cat' further up"),
        (
            "path,label\nx.jpg,cat\ny.jpg,\n",
            r"labels\.csv names 2 images that are not in .*, such as x\.jpg: paths are",
        ),
    ],
)
def test_wrong_labels_are_named(tmp_path, text, message):
    fill(tmp_path, "a.jpg")
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"data\.source\.labels: .*" + message):
        listed(tmp_path, "labels.csv")


# Where images should not be


def test_images_deeper_than_classes_are_counted_and_named(tmp_path):
    fill(tmp_path, "train/cat/1.jpg", "train/cat/old/2.jpg", "train/cat/old/older/3.jpg", "train/dog/1.jpg")
    with pytest.raises(ConfigError, match=r"holds 2 images deeper than .*, such as cat/old/2\.jpg: .*none"):
        listed(tmp_path)
    assert len(listed(tmp_path, "none")["train"]) == 4


def test_images_beside_classes_are_counted_and_named(tmp_path):
    fill(tmp_path, "train/cat/1.jpg", "train/x.jpg", "train/y.jpg")
    with pytest.raises(ConfigError, match=r"holds 2 images beside its class folders, such as x\.jpg: .*labels=none"):
        listed(tmp_path)


def test_a_val_folder_gets_no_advice_that_would_not_help(tmp_path):
    fill(tmp_path, "train/a.jpg", "val/cat/1.jpg", "val/cat/old/2.jpg")
    with pytest.raises(ConfigError, match=r"val holds 1 images deeper .*: bring them up to their class's folder$"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["notes.txt"], r"has no images \(\.jpg, .*\); expected <root>/train/<class>/<image>.*<root>/<image>"),
        (["a.npy"], r"has no images"),
        (["val/cat/1.jpg"], r"there is no folder .*/train; expected"),
        (["train/cat/1.jpg", "val/1.jpg"], r"val has no class folders"),
        (["train/1.jpg", "bank/1.jpg"], r"bank has no class folders"),
        (["train/cat/1.jpg", "train/dog/notes.txt"], r"train/dog has no images"),
        (
            ["train/1.jpg", "bank/cat/1.jpg", "val/dog/1.jpg"],
            r"val and its bank/ have different class folders: .*'cat'",
        ),
    ],
)
def test_other_layouts_are_refused(tmp_path, paths, message):
    fill(tmp_path, *paths)
    with pytest.raises(ConfigError, match=r"data\.source\.root: .*" + message):
        listed(tmp_path)


# What is no file that can be read


def test_pipes_sockets_and_devices_are_named_and_left_out(tmp_path):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg")
    os.mkfifo(tmp_path / "cat" / "2.jpg")
    os.symlink("/dev/zero", tmp_path / "cat" / "3.png")
    here = os.getcwd()
    os.chdir(tmp_path / "dog")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("0.jpg")
        os.chdir(here)
        found = list_splits(str(tmp_path), "auto", IMAGES, False)["train"]
    assert [os.fsdecode(name) for name in found.names] == ["cat/1.jpg", "dog/1.jpg"]
    assert found.skipped == [("cat/2.jpg", "is a pipe"), ("cat/3.png", "is a device"), ("dog/0.jpg", "is a socket")]


@pytest.mark.parametrize("target", ["gone.jpg", "2.jpg"])
def test_a_link_to_nowhere_is_an_error_or_left_out(tmp_path, target):
    fill(tmp_path, "cat/1.jpg")
    os.symlink(target, tmp_path / "cat" / "2.jpg")
    with pytest.raises(
        ConfigError, match=r"cat/2\.jpg is a link to nowhere; remove it, or set data\.source\.on_bad_image="
    ):
        listed(tmp_path)
    found = list_splits(str(tmp_path), "auto", IMAGES, True)["train"]
    assert found.skipped == [("cat/2.jpg", "is a link to nowhere")]
    assert len(found.names) == 1


def test_nothing_but_links_to_nowhere(tmp_path):
    (tmp_path / "cat").mkdir()
    os.symlink("gone", tmp_path / "cat" / "2.jpg")
    with pytest.raises(ConfigError, match=r"none of the 1 images can be read; cat/2\.jpg is a link to nowhere"):
        listed(tmp_path, skip=True)


def test_a_link_is_followed_but_not_in_a_circle(tmp_path):
    fill(tmp_path, "photos/a/1.jpg", "more/2.jpg")
    os.symlink(tmp_path / "more", tmp_path / "photos" / "b")
    os.symlink("..", tmp_path / "photos" / "a" / "back")
    found = list_splits(str(tmp_path / "photos"), "none", IMAGES, False)["train"]
    assert [os.fsdecode(name) for name in found.names] == ["a/1.jpg", "b/2.jpg"]
    assert found.skipped == [("a/back", "is a link to a folder that it lies in")]


def test_names_that_are_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_text("x")
    (tmp_path / "a\nb.jpg").write_text("x")
    names = list_splits(str(tmp_path), "auto", IMAGES, False)["train"].names
    assert names.tolist() == [b"a\nb.jpg", b"caf\xe9.jpg"]
    assert names.dtype.kind == "S"
    assert np.unique(names).size == 2
