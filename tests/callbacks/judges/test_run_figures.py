"""Class names of any kind, and pictures that cannot be drawn, end no run."""

import json

import numpy as np
from children import DIGITS, in_child, start
from PIL import Image

from kindred.commands.train import main

NAMES = (r"a_$\frac$", "猫", "\U0001f98a fox")


def folder_of(root, names):
    """A folder of small grey images, stripes for one class and noise for the others."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_a_run_whose_classes_have_formulas_and_other_scripts_for_names(tmp_path, capfd):
    root = folder_of(tmp_path / "images", NAMES)
    data = [
        "data=imagefolder",
        f"data.source.root={root}",
        "data.image_size=8",
        "data.channels=1",
        "data.batch_size=16",
    ]
    data += [
        "data.source.mean=[0.5]",
        "data.source.std=[0.3]",
        "encoder=convnet",
        "views=digits",
        "trainer.max_epochs=1",
    ]
    small = [override for override in DIGITS if not override.startswith(("data", "trainer.max_epochs"))]
    run = tmp_path / "run"
    assert in_child(lambda: main([*data, *small, f"run_dir={run}"])) == 0
    assert json.loads((run / "summary.json").read_text())["epochs"] == 1
    assert {path.name for path in (run / "figures").iterdir()} == {"views.png", "curves.png", "neighbours.png"}
    said = capfd.readouterr().err
    assert "left out" not in said
    assert "Glyph" not in said


def test_pictures_that_cannot_be_drawn_are_said_and_left_out(tmp_path, capfd):
    def spoil():
        from kindred.tracking import figures

        def draw(*_):
            raise RuntimeError("no such\nfont")

        for name in ("draw_views", "draw_curves", "draw_neighbours"):
            setattr(figures, name, draw)

    assert start(tmp_path / "run", ["trainer.max_epochs=2"], spoil) == 0
    assert (tmp_path / "run" / "summary.json").exists()
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("left out: ")]
    pictures = [f"left out: {tmp_path}/run/figures/{name}.png" for name in ("views", "neighbours", "curves")]
    assert [line.partition(" (")[0] for line in said] == pictures
    assert all("(RuntimeError: no such font; test_run_figures.py, line " in line for line in said)
