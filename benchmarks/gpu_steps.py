"""What gpu.py times of training: whole epochs of a method, ResNet-50 at 224x224, and the pieces of a step."""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from knn import by_kindred, by_lightly, features
from lightning import LightningModule, Trainer
from measure import wait
from report import Row
from torch.utils.flop_counter import FlopCounterMode
from trainings import EpochClock, train_kindred, train_lightly

from kindred.config import build, check, compose
from kindred.data.loading import ViewBatch
from kindred.data.source import ArrayExamples
from kindred.losses import nt_xent
from kindred.memory import FeatureQueue
from kindred.runs.run import build_datamodule, build_module

METHODS = ("simclr", "mocov2", "nnclr", "supcon")
FULL = ["trainer=gpu", "trainer.compile=true", "data.batch_size=512"]
TINY = ["trainer=cpu", "encoder=convnet", "encoder.widths=[8,16]", "data.batch_size=16", "~callbacks.figures"]


class Noise:
    """Random images of 32x32 in ten classes, a fifth as many for testing: a source (kindred.data.source.Source)."""

    name = "noise"
    class_names = [str(number) for number in range(10)]
    mean, std = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29)
    skipped = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self) -> None:
        pass

    def load(self, split: str) -> ArrayExamples | None:
        count = {"train": self.count, "test": self.count // 5}.get(split)
        if count is None:
            return None
        generator = np.random.default_rng(count)
        images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        return ArrayExamples(images, generator.integers(0, 10, count))


class Clock(EpochClock):
    """The seconds of evaluations too."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations: list[float] = []

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        wait(module.device)
        self.evaluation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        wait(module.device)
        self.evaluations.append(time.perf_counter() - self.evaluation_start)


def seconds(device: torch.device, call: Callable[[], Any], repeats: int, calls: int) -> list[float]:
    """Per call, in turns of several calls, after some that are not counted."""
    turns = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait(device)
        turns.append((time.perf_counter() - start) / calls)
    return turns[1:]


def peak_flops(device: torch.device, side: int) -> list[float]:
    """FLOP/s of a bfloat16 matrix product."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return [2 * side**3 / each for each in seconds(device, lambda: left @ right, 5, 10)]


def step_flops(overrides: list[str], device: torch.device) -> int:
    """FLOPs of one step's forward and backward, queues full."""
    config = compose(overrides)
    check(config)
    module = build_module(config).to(device)
    for part in module.children():
        if isinstance(part, FeatureQueue):
            part.enqueue(torch.randn_like(part.features))
    batch, size = config.data.batch_size, config.data.image_size
    views = tuple(torch.randn(batch, 3, size, size, device=device) for _ in range(2))
    numbers = torch.arange(batch, device=device)
    with FlopCounterMode(display=False) as counter, torch.autocast(device.type, dtype=torch.bfloat16):
        loss, _ = module.contrast(ViewBatch(views, numbers % 10, numbers))
        loss.backward()
    return counter.get_total_flops()


def data_of(options: argparse.Namespace) -> list[str]:
    """Overrides: random images, and the sizes that all parts share."""
    count, epochs = (50, 2) if options.small else (50_000, 3)
    data = ["data=cifar10", "data.source._target_=gpu_steps.Noise", "~data.source.root", f"+data.source.count={count}"]
    data += ["data.val_size=0", f"trainer.max_epochs={epochs}", "trainer.check_val_every_n_epoch=1"]
    return [*data, *(TINY if options.small else FULL)]


def epochs_of(method: str, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Whole epochs of a method, and the share of the matrix peak; SimCLR's against lightly's recipe."""
    overrides = [f"model={method}", *data_of(options)]
    config = compose(overrides)
    check(config)
    batch_size, peak = config.data.batch_size, peak_flops(device, 128 if options.small else 8192)
    encoder, clock = f"{config.choices.encoder}, 32x32, batch {batch_size}", Clock()
    with tempfile.TemporaryDirectory() as folder:
        workers, peer = lightly(config, options, device, Path(folder)) if method == "simclr" else (0, [])
        train_kindred(overrides, Path(folder) / method, [clock])
    rates, best = clock.rates(batch_size), [max(peak) / 1e12]
    reached = [rate / batch_size * step_flops(overrides, device) / 1e12 for rate in rates]
    against, target = (f"lightly's SimCLR recipe, {workers} workers", 8) if method == "simclr" else ("alone", None)
    return [
        Row(f"{method}: epochs, {encoder}", against, "images/s", rates, peer, "times more", target),
        Row(f"{method}: of the matrix peak", "bfloat16 product", "TFLOP/s", reached, best, "at least", 0.35),
    ]


def lightly(config: Any, options: argparse.Namespace, device: torch.device, place: Path) -> tuple[int, list[float]]:
    """The number of workers that was fastest, and images per second of each epoch."""
    train = Noise(config.data.source.count).load("train")

    def recipe(workers: int, passes: int, **limits: int) -> list[float]:
        where = {"accelerator": device.type, "precision": config.trainer.precision, **limits}
        new, size = build(config, "encoder"), config.data.batch_size
        return train_lightly(train.array, train.labels, new, size, workers, passes, place / "lightly", **where)

    cores = os.cpu_count() or 1
    choices = [] if options.small else sorted({cores // 2, max(1, cores - 2), cores})
    tried = {workers: recipe(workers, 2, limit_train_batches=20)[0] for workers in choices}
    workers = max(tried, key=tried.get, default=0)
    return workers, recipe(workers, config.trainer.max_epochs)


def resnet50(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """A step of SimCLR, two views of 224x224, without Trainer and loader."""
    size, batch, repeats = (32, 4, 1) if options.small else (224, 256, 5)
    overrides = [*data_of(options), "encoder=resnet50", f"data.image_size={size}", f"data.batch_size={batch}"]
    overrides = [word for word in overrides if word not in TINY or word == "trainer=cpu"]
    config = compose(overrides)
    check(config)
    module = build_module(config).to(device, memory_format=torch.channels_last)
    if config.trainer.compile:
        module.encoder.compile()
    optimizer = module.build_optimizer()
    images = tuple(torch.randn(batch, 3, size, size, device=device) for _ in range(2))
    some = ViewBatch(images, torch.arange(batch, device=device) % 10, torch.arange(batch, device=device))

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = module.training_step(some, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    taken, best = (
        seconds(device, step, repeats, 1 if options.small else 10),
        max(peak_flops(device, 128 if options.small else 8192)),
    )
    reached = [step_flops(overrides, device) / each / 1e12 for each in taken]
    what = f"simclr step, resnet50, {size}x{size}, batch {batch}"
    return [
        Row(f"{what}: images", "alone", "images/s", [batch / each for each in taken], [], "times more"),
        Row(f"{what}: of the matrix peak", "bfloat16 product", "TFLOP/s", reached, [best / 1e12], "at least", 0.35),
    ]


def parts(config: Any, device: torch.device, step: float, tiny: bool) -> list[Row]:
    """Views, loss and kNN by themselves; `step` is the seconds of a training step."""
    batch, repeats, often = config.data.batch_size, *((1, 1) if tiny else (5, 10))
    views = build_datamodule(config).views
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=device)
    index = torch.arange(batch, device=device)
    pair = torch.randn(2, batch, 128, device=device, requires_grad=True)
    bank, queries, dim, k = (500, 100, 16, 20) if tiny else (50_000, 10_000, 512, 200)
    (bank, labels), (asked, _) = features(bank, dim, 1), features(queries, dim, 2)
    bank, labels, asked = bank.to(device), labels.to(device), asked.to(device)

    def milliseconds(call: Callable[[], Any], calls: int) -> list[float]:
        return [1000 * each for each in seconds(device, call, repeats, calls)]

    steps = [1000 * step]
    made = milliseconds(lambda: views(images, index, 0), often)
    contrasted = milliseconds(lambda: nt_xent(pair, 0.5).backward(), often)
    judged = milliseconds(lambda: by_kindred(bank, labels, asked, k), 1)
    theirs = milliseconds(lambda: by_lightly(bank, labels, asked, k, 512), 1)
    return [
        Row("simclr: both views of a batch", "the step", "ms", made, steps, "at most", 0.05),
        Row("simclr: NT-Xent forward + backward", "the step", "ms", contrasted, steps, "at most"),
        Row(f"kNN, bank {len(bank):,}, {queries:,} queries", "lightly knn_predict", "ms", judged, theirs, "times less"),
    ]
