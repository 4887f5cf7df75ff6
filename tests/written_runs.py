"""Run directories as trainings leave them, written by hand in no time."""

import io
import json
import shutil
from copy import deepcopy
from functools import cache

import matplotlib.image
import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from kindred.config import compose
from kindred.tracking.metrics_csv import MetricsFile, read_metrics, summarise

SEEDS = ("seed", "data.seed", "views.seed", "callbacks.step_seed.seed")


@cache
def composed(*overrides):
    config = compose(overrides)
    OmegaConf.resolve(config)
    return config


def write_run(directory, knn=(), *, overrides=(), seed=0, changes=None, more=None, finished=True, pictures=False):
    """A run directory as a training leaves it: an untrained evaluation, then `knn` after each epoch of 4 steps."""
    directory.mkdir(parents=True)
    config = deepcopy(composed(*overrides))
    for key, value in {**dict.fromkeys(SEEDS, seed), **(changes or {})}.items():
        OmegaConf.update(config, key, value, force_add=True)
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (directory / "environment.json").write_text("{}\n")
    if knn:
        file = MetricsFile(directory / "metrics.csv")
        file.log({"epoch": 0, "val/knn_top1": 0.25}, 0)
        for epoch, value in enumerate(knn, start=1):
            file.log({"epoch": epoch, "train/loss": 1 / epoch, "val/knn_top1": value, **(more or {})}, 4 * epoch)
    if finished:
        summary = summarise(read_metrics(directory / "metrics.csv")) | {"epochs": len(knn), "seconds": 10.0 + seed}
        (directory / "summary.json").write_text(json.dumps(summary))
    if pictures:
        (directory / "figures").mkdir()
        pixels = np.random.default_rng(seed).random((30, 40, 3))
        for name in ("views", "neighbours"):
            matplotlib.image.imsave(directory / "figures" / f"{name}.png", pixels)
    return directory


def write_study(directory, runs=200, seeds=5, rows=300, evaluations=60, width=900):
    """`runs` runs as a long study leaves them: temperatures times seeds, 25 metrics over `rows` rows, and noisy pictures."""
    draw = np.random.default_rng(0)
    names = ["train/loss", *(f"train/metric{place}" for place in range(14))]
    judged = ["val/knn_top1", "val/linear_top1", *(f"val/metric{place}" for place in range(8))]
    pictures = {name: _noise(draw, wide, width) for name, wide in (("neighbours", width), ("views", width // 3))}
    written = []  # a few dozen kilobytes each, too far apart in the page for its compression to see that some are the same
    for _ in range(min(runs, 20)):
        values = np.column_stack([np.arange(1, rows + 1) * 10, draw.random((rows, 1 + len(names) + len(judged)))])
        lines = [[repr(value) for value in row] for row in values.tolist()]
        for place, line in enumerate(lines):
            line[1] = repr(round((place + 1) / 3, 4))
            if place % (rows // evaluations):
                line[2 + len(names) :] = [""] * len(judged)
        text = "\n".join(",".join(line) for line in [["step", "epoch", *names, *judged], *lines]) + "\n"
        written.append((text, dict(zip(names + judged, values[-1, 2:].tolist(), strict=True)) | {"epochs": rows / 3}))
    write_run(directory / "first", seed=11111, changes={"model.temperature": 22222}, finished=False)
    config = (directory / "first" / "config.yaml").read_text()  # with two numbers that are nowhere else in it
    shutil.rmtree(directory / "first")
    for place in range(runs):
        path, seed = directory / f"run{place:04}", place % seeds
        (path / "figures").mkdir(parents=True)
        settings = config.replace("11111", str(seed)).replace("22222", f"{0.01 * (1 + place // seeds):.2f}")
        text, summary = written[place % len(written)]
        (path / "config.yaml").write_text(settings)
        (path / "metrics.csv").write_text(text)
        (path / "summary.json").write_text(json.dumps(summary))
        # A reader stops at the picture's end: what stands behind it makes files that differ, in no time.
        for name, own in (("neighbours", place), ("views", seed)):
            (path / "figures" / f"{name}.png").write_bytes(pictures[name] + str(own).encode())
    return directory


def _noise(draw, width, height):
    """A PNG whose pixels are blocks of 4 x 4, as small images drawn large are."""
    blocks = draw.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(4, 0).repeat(4, 1)).save(file, "PNG", compress_level=1)
    return file.getvalue()
