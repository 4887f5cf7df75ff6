"""Folders of images that cannot be trained on: one line each, with the key, before there is a run directory."""

import os
import re

import lightning
import numpy as np
import pytest
import tifffile
from children import start
from PIL import Image

from kindred.__main__ import main

TRAIN = [
    *("train", "data=imagefolder", "encoder=convnet", "encoder.widths=[8]", "trainer=cpu"),
    *("data.image_size=8", "data.batch_size=2", "views=small"),
]
ARRAYS = "data.channels=5 views=channels data.source.mean=[0,0,0,0,0] data.source.std=[1,1,1,1,1]"

# The folder, what is typed besides, and the line. {source} stands for data.source.
STARTS = [
    # Values
    ("flat", "{source}.labels=folders", r"{source}\.labels is 'folders': choose auto, none, or a file .* \.csv"),
    ("flat", "{source}.labels=labels.txt", r"{source}\.labels is 'labels\.txt': choose auto, none, or a file"),
    ("flat", "{source}.labels=3", r"{source}\.labels must be a text, got 3"),
    ("flat", "{source}.labels=null", r"{source}\.labels must be a text, got null"),
    ("flat", "{source}.range=5", r"{source}\.range must be a list of 2 numbers, or null, got 5"),
    ("flat", "{source}.range=[0]", r"{source}\.range must be a list of 2 numbers, or null, got \[0\]"),
    ("flat", "{source}.range=[0,white]", r"{source}\.range must be a list of 2 numbers, or null"),
    ("flat", "{source}.range=[9,1]", r"{source}\.range is \[9,1\]: give the value that becomes black and a larger"),
    ("flat", "{source}.range=[1,1]", r"{source}\.range is \[1,1\]: give the value that becomes black and a larger"),
    ("flat", "{source}.background=white", r"{source}\.background must be a list of 3 whole numbers.*, got 'white'"),
    ("flat", "{source}.background=[0,0]", r"{source}\.background must be a list of 3 whole numbers.*, got \[0, 0\]"),
    ("flat", "{source}.background=[0,0,256]", r"{source}\.background must be .*from 0 to 255, got \[0, 0, 256\]"),
    ("flat", "{source}.background=[-1,0,0]", r"{source}\.background must be .*from 0 to 255, got \[-1, 0, 0\]"),
    ("flat", "{source}.on_bad_image=ignore", r"{source}\.on_bad_image must be error or skip, got 'ignore'"),
    ("flat", "{source}.stream=maybe", r"{source}\.stream must be true or false, got 'maybe'"),
    ("flat", "{source}.pack=4", r"{source}\.pack is 4: give a number of pixels from data\.image_size=8 up"),
    ("flat", "{source}.lables=none", r"{source}\.lables: there is no such key.*'labels'"),
    ("flat", "data.image_size=0", r"data\.image_size must be 1 or more, got 0"),
    ("flat", "data.channels=0", r"data\.channels must be 1 or more, got 0"),
    ("flat", "data.channels=1", r"{source}\.mean and std have 3 and 3 values: data\.channels=1 needs 1 each"),
    ("flat", "{source}.cache_dir=words.txt", r"{source}\.cache_dir: cannot write to words\.txt"),
    # Numbers that do not fit what is there
    ("flat", "data.batch_size=100", r"data\.batch_size is 100, but there are only"),
    ("flat", "data.val_size=100", r"data\.val_size is 100: that is 100 of the 8 examples of imagefolder"),
    ("flat", "data.train_size=100", r"data\.train_size is 100: imagefolder has 7 examples to train on"),
    ("flat", "data.val_size=0", r"{source}\.root: .*flat has no test images; expected"),
    # Layouts
    ("nowhere", "", r"{source}\.root: there is no folder .*nowhere; expected"),
    ("words.txt", "", r"{source}\.root: there is no folder .*words\.txt; expected"),
    ("nothing", "", r"{source}\.root: .*nothing has no images \(\.jpg, .*\); expected"),
    ("arrays", "", r"{source}\.root: .*arrays has no images \(\.jpg, "),
    ("deep", "", r"{source}\.root: .*deep holds 2 images deeper than .*, such as a/b/1\.png: .*labels=none"),
    ("beside", "", r"{source}\.root: .*beside holds 1 images beside its class folders, such as 1\.png: .*labels=none"),
    ("hollow", "", r"{source}\.root: .*train/b has no images .*; remove the folder or fill it"),
    ("no-train", "", r"{source}\.root: there is no folder .*no-train/train; expected"),
    ("other-val", "", r"{source}\.root: .*val and its train/ have different class folders: missing \['a'\], .*\['c'\]"),
    ("other-test", "", r"{source}\.root: .*test and its bank/ have different class folders: missing \['b'\]"),
    ("flat-val", "", r"{source}\.root: .*flat-val/val has no class folders"),
    ("flat-bank", "", r"{source}\.root: .*flat-bank/bank has no class folders"),
    # Labels
    (
        "flat",
        "{source}.labels=missing.csv",
        r"{source}\.labels: .*missing\.csv: there is no such file; a path is relative",
    ),
    (
        "flat",
        "{source}.labels=headless.csv",
        r"{source}\.labels: .*headless\.csv: its first line is '0\.png,a' and must",
    ),
    ("flat", "{source}.labels=semicolons.csv", r"{source}\.labels: .*: its first line is 'path;label' and must be"),
    ("flat", "{source}.labels=three.csv", r"{source}\.labels: .*three\.csv, line 2: has 3 values"),
    (
        "flat",
        "{source}.labels=twice.csv",
        r"{source}\.labels: .*twice\.csv, line 3: 0\.png is 'b' here and 'a' further up",
    ),
    (
        "flat",
        "{source}.labels=misspelt.csv",
        r"{source}\.labels: .* names 1 images that are not in .*, such as 00\.png",
    ),
    ("flat", "{source}.labels=folder.csv", r"{source}\.labels: .*folder\.csv: cannot be read"),
    # Files
    (
        "flat",
        "{source}.range=[0,4095]",
        r"flat/0\.png has 8 bits a channel, and {source}\.range=\[0,4095\] is for more",
    ),
    ("text", "", r"text/1\.png cannot be decoded \(it is no image\); remove it, or set {source}\.on_bad_image=skip"),
    ("empty", "", r"empty/1\.png cannot be decoded \(it is empty\); remove it, or set {source}\.on_bad_image=skip"),
    ("torn", "", r"torn/1\.png cannot be decoded \(.*\); remove it, or set {source}\.on_bad_image=skip"),
    ("text", "{source}.on_bad_image=skip", r"{source}\.root: none of the 1 images in .*text can be decoded"),
    ("link", "", r"{source}\.root: .*link/1\.png is a link to nowhere; remove it, or set {source}\.on_bad_image=skip"),
    (
        "link",
        "{source}.on_bad_image=skip",
        r"{source}\.root: .*link: none of the 1 images can be read; 1\.png is a link",
    ),
    ("pipe", "", r"{source}\.root: .*pipe: none of the 1 images can be read; 1\.png is a pipe"),
    ("float", "", r"float/1\.tif holds float32 numbers, .*: set {source}\.range=\[black,white\]"),
    ("float", "{source}.stream=true", r"float/1\.tif holds float32 numbers, .*: set {source}\.range=\[black,white\]"),
    (
        "float",
        "{source}.range=[0,1]",
        r"float/1\.tif holds values that are not finite, which {source}\.range cannot place",
    ),
    ("cmyk", "", r"cmyk/1\.tif cannot be decoded \(ValueError: .*\); remove it, or set {source}\.on_bad_image=skip"),
    # Other numbers of channels
    (
        "arrays",
        "data.channels=5",
        r"views\.views\[0\]\.saturation=0\.4: changes colours, which data\.channels=5 are not",
    ),
    (
        "arrays",
        "data.channels=5 views=channels",
        r"{source}\.mean and std have 3 and 3 values: data\.channels=5 needs 5",
    ),
    ("flat", ARRAYS, r"{source}\.root: .*flat has no images \(\.npy\)"),
    ("four", ARRAYS, r"four/1\.npy has the shape \[6, 7, 4\]: data\.channels=5 needs \[5, height, width\]"),
    ("four", f"{ARRAYS} {{source}}.stream=true", r"four/1\.npy has the shape \[6, 7, 4\]: data\.channels=5 needs"),
    ("either", ARRAYS, r"either/1\.npy has the shape \[5, 6, 5\], which may be either: data\.channels=5 needs"),
    ("floats", ARRAYS, r"floats/1\.npy holds float64 numbers, .*: set {source}\.range"),
    ("objects", ARRAYS, r"objects/1\.npy cannot be decoded \(ValueError: .*pickle"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with the folders that STARTS names."""
    folder = tmp_path_factory.mktemp("sources")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8))

    def write(*paths):
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / path)

    write(*(f"flat/{number}.png" for number in range(8)))
    write("deep/a/1.png", "deep/a/b/1.png", "deep/a/b/2.png", "beside/1.png", "beside/a/1.png", "hollow/train/a/1.png")
    write("no-train/val/a/1.png", "other-val/train/a/1.png", "other-val/val/c/1.png", "other-test/train/1.png")
    write("other-test/bank/a/1.png", "other-test/bank/b/1.png", "other-test/test/a/1.png")
    write("flat-val/train/a/1.png", "flat-val/val/1.png", "flat-bank/train/1.png", "flat-bank/bank/1.png", "torn/1.png")
    for name in (
        "nothing",
        "arrays",
        "hollow/train/b",
        "text",
        "empty",
        "link",
        "pipe",
        "float",
        "cmyk",
        "flat/folder.csv",
    ):
        (folder / name).mkdir(exist_ok=True)
    (folder / "words.txt").write_text("just some words\n")
    for name, text in {
        "headless": "0.png,a\n",
        "semicolons": "path;label\n",
        "three": "path,label\n0.png,a,b\n",
        "twice": "path,label\n0.png,a\n0.png,b\n",
        "misspelt": "path,label\n00.png,a\n",
    }.items():
        (folder / "flat" / f"{name}.csv").write_text(text)
    (folder / "text" / "1.png").write_text("no picture")
    (folder / "empty" / "1.png").touch()
    (folder / "torn" / "1.png").write_bytes((folder / "flat" / "0.png").read_bytes()[:100])
    os.symlink("gone", folder / "link" / "1.png")
    os.mkfifo(folder / "pipe" / "1.png")
    tifffile.imwrite(folder / "float" / "1.tif", np.array([[0.5, np.nan], [0, 1]], np.float32))
    separated = {"photometric": "separated", "planarconfig": "contig"}
    tifffile.imwrite(folder / "cmyk" / "1.tif", np.zeros((4, 5, 4), np.uint32), **separated)
    for name, array in {
        "arrays": np.zeros((6, 7, 5), np.uint8),
        "four": np.zeros((6, 7, 4), np.uint8),
        "either": np.zeros((5, 6, 5), np.uint8),
        "floats": np.zeros((6, 7, 5)),
        "objects": np.array([[object()]]),
    }.items():
        (folder / name).mkdir(exist_ok=True)
        for number in range(1, 9):
            np.save(folder / name / f"{number}.npy", array)
    return folder


@pytest.mark.parametrize(
    ("root", "wrong", "expected"),
    [pytest.param(*case, marks=[] if number % 8 == 0 else pytest.mark.slow) for number, case in enumerate(STARTS)],
    ids=lambda value: value.replace("{source}.", "")[:50],
)
def test_a_wrong_source_takes_one_line_with_the_key(root, wrong, expected, place, capfd, monkeypatch):
    def trains(*_, **__):
        raise AssertionError("it trains")

    monkeypatch.setattr(lightning.Trainer, "validate", trains)
    monkeypatch.setattr(lightning.Trainer, "fit", trains)
    monkeypatch.setenv("KINDRED_RUN_DIR", "")  # both are put back: a training writes them
    monkeypatch.setenv("KINDRED_RUN_PARENT", "")
    monkeypatch.chdir(place)
    status = main([*TRAIN, f"data.source.root={root}", *wrong.replace("{source}", "data.source").split()])
    said = capfd.readouterr().err.splitlines()
    lines = [line for line in said if not line.startswith("data.source.root: the ")]  # that there are no labels
    assert status == 1, said
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert re.search(expected.replace("{source}", r"data\.source"), lines[0]), lines
    assert not (place / "logs").exists()


def test_class_contrast_without_classes_takes_one_line(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    overrides = ["model=supcon", *TRAIN[1:], "data.source.root=flat"]
    assert start(place / "run", overrides) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "model=supcon contrasts classes, but the train images of imagefolder have no labels" in lines[0]
    assert not (place / "run").exists()
