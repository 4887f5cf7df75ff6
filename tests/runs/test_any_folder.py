"""One session: every kind of folder that people have is trained on, evaluated and compared, by the commands alone."""

import csv
import json
import os

import numpy as np
import pytest
import tifffile
from children import in_child
from image_folders import COLOURS
from PIL import Image

from kindred.__main__ import main
from kindred.commands.compare import main as compare

TINY = [
    *("model=simclr", "encoder=convnet", "encoder.widths=[8,16]", "model.hidden_dim=16", "data.image_size=8"),
    *("trainer=cpu", "trainer.max_epochs=1", "data.batch_size=8", "data.eval_batch_size=32", "logger=csv"),
    *("trainer.enable_progress_bar=false", "views=small"),
]
CHANNELS = [
    "views=channels",
    "data.channels=5",
    "data.source.mean=[.5,.5,.5,.5,.5]",
    "data.source.std=[.3,.3,.3,.3,.3]",
]
GREY = ["views=channels", "data.channels=1", "data.source.mean=[.5]", "data.source.std=[.3]"]
PER_CLASS = 14


def each(root, write, suffix, classes=True):
    """Files of three colours, <root>/class<n>/<i><suffix> or without classes, by `write(path, pixels uint8 [12, 10, 3])`."""
    generator = np.random.default_rng(0)
    for number in range(3 * PER_CLASS):
        label = number % 3
        folder = root / f"class{label}" if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(COLOURS[label] + generator.normal(0, 25, (12, 10, 3)), 0, 255).astype(np.uint8)
        write(folder / f"{number}{suffix}", pixels)


def image(mode="RGB", **options):
    return lambda path, pixels: Image.fromarray(pixels).convert(mode).save(path, **options)


def several(path, pixels):
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def turned(path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


def numbers(dtype, scale):
    """A TIFF file of numbers of that type, one channel: the sum of the colours weighted so that it tells them apart."""
    return lambda path, pixels: tifffile.imwrite(path, (pixels @ (0.5, 0.3, 0.2) / 255 * scale).astype(dtype))


def png_of_16_bits(path, pixels):
    Image.fromarray(((pixels @ (0.5, 0.3, 0.2)) * 257).astype(np.uint16)).save(path)


def five_channels(path, pixels):
    np.save(path, np.concatenate([pixels, pixels[..., :2]], axis=2))


def half_labelled(root):
    each(root, image(), ".png", classes=False)
    rows = [f"{n}.png,class{n % 3}" if n < 30 else f"{n}.png," for n in range(3 * PER_CLASS)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows, ""]))


def judged_by(splits, root):
    """Unlabelled train images, beside labelled folders."""
    each(root / "train", image(), ".png", classes=False)
    for split in splits:
        each(root / split, image(), ".png")


def deep(root):
    each(root / "wing" / "left", image(), ".png")
    each(root / "wing" / "right", image(), ".png")


def broken(root):
    each(root, image(), ".png")
    os.symlink("gone", root / "class0" / "link.png")
    os.mkfifo(root / "class0" / "pipe.png")
    (root / "class1" / "empty.png").touch()
    (root / "class2" / "torn.png").write_bytes((root / "class0" / "0.png").read_bytes()[:60])


def one_class(root):
    each(root / "all", image(), ".png", classes=False)


# Kind -> what makes the folder, what is typed besides, whether it has labels to judge by, what is said. Of labelled kinds
# the three classes are colours or levels of grey, which any encoder tells apart.
KINDS = {
    "classes": (lambda root: each(root, image(), ".png"), [], True, ""),
    "flat": (lambda root: each(root, image(), ".jpg", classes=False), [], False, "labels"),
    "nested": (deep, ["data.source.labels=none"], False, ""),
    "one class": (one_class, [], False, "of one class"),
    "half labelled": (half_labelled, ["data.source.labels=labels.csv"], True, ""),
    "labelled val": (lambda root: judged_by(["val"], root), [], True, ""),
    "labelled bank and val": (lambda root: judged_by(["bank", "val"], root), [], True, ""),
    "16 bits grey": (lambda root: each(root, numbers(np.uint16, 65535), ".tif"), [], True, ""),
    "16 bits PNG": (
        lambda root: each(root, png_of_16_bits, ".png"),
        GREY,
        True,
        "",
    ),
    "32 bits": (lambda root: each(root, numbers(np.uint32, 2**32 - 1), ".tif"), [], True, ""),
    "12 of 16 bits": (
        lambda root: each(root, numbers(np.uint16, 4095), ".tif"),
        ["data.source.range=[0,4095]"],
        True,
        "",
    ),
    "floats": (lambda root: each(root, numbers(np.float32, 2.0), ".tif"), ["data.source.range=[0,2]"], True, ""),
    "pages": (lambda root: each(root, several, ".tif"), [], True, "first"),
    "GIF": (lambda root: each(root, several, ".gif"), [], True, "first"),
    "palette": (lambda root: each(root, image("P"), ".png"), [], True, ""),
    "CMYK": (lambda root: each(root, image("CMYK"), ".jpg"), [], True, ""),
    "alpha": (lambda root: each(root, image("RGBA"), ".png"), ["data.source.background=[0,0,0]"], True, ""),
    "EXIF": (lambda root: each(root, turned, ".jpg"), [], True, ""),
    "one channel": (lambda root: each(root, image("L"), ".png"), GREY, True, ""),
    "five channels": (lambda root: each(root, five_channels, ".npy"), CHANNELS, True, ""),
    "broken": (broken, ["data.source.on_bad_image=skip"], True, ""),
}
QUICK = ("flat", "one class", "32 bits")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("session")


def kindred(*words):
    return in_child(lambda: main([*words]))


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_it_is_trained_and_evaluated(kind, place, monkeypatch, capfd):
    make, typed, labelled, said = KINDS[kind]
    monkeypatch.chdir(place)
    make(place / kind)
    source = [f"data.source.root={kind}", *typed]
    assert kindred("train", "data=imagefolder", *TINY, *source, f"run_dir=runs/{kind}") == 0
    assert said in capfd.readouterr().err
    run = place / "runs" / kind
    summary = json.loads((run / "summary.json").read_text())
    assert np.isfinite(summary["val/uniformity"])
    if kind == "broken":
        with open(run / "skipped.csv", newline="") as file:
            assert {path for path, _ in csv.reader(file)} == {
                "path",
                *("class0/link.png", "class0/pipe.png", "class1/empty.png", "class2/torn.png"),
            }
    capfd.readouterr()
    status = kindred("evaluate", "--run", f"runs/{kind}", "--brief")
    if not labelled:
        error = capfd.readouterr().err
        assert status == 1
        last = error.splitlines()[-1]
        assert last.startswith("error: imagefolder has "), error
        assert ("labelled train examples of one class, all" if kind == "one class" else "no labelled train") in last
        return
    assert status == 0, capfd.readouterr().err
    result = json.loads((run / "evaluation.json").read_text())
    assert result["classes"] == 3
    assert result[f"{result['judged_on']}/linear_top1"] >= 0.7


def test_they_are_compared(place, monkeypatch, capfd):
    """What the tests above left: a row each, since no two are of the same data."""
    runs = sorted(path.name for path in (place / "runs").iterdir())
    assert len(runs) >= len(QUICK)
    monkeypatch.chdir(place)
    assert compare(["runs"]) == 0
    table = [line for line in capfd.readouterr().out.splitlines() if line.startswith("│")]
    assert len(table) == len(runs)
