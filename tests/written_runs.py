"""Run directories as trainings leave them, written by hand in no time."""

import json
from copy import deepcopy
from functools import cache

import matplotlib.image
import numpy as np
from omegaconf import OmegaConf

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
