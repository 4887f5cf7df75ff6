"""What a GPU makes of Kindred: one call of at most ten minutes.

    python benchmarks/gpu.py --output benchmarks/results [--tiny]

ResNet-18 with the small stem, 32x32, batch 512, mixed bfloat16, compiled, on random images as many as CIFAR-10's (speed
does not depend on what they show). Measured: whole epochs of the four methods under the Trainer with the callbacks, the
share of the matrix peak that they reach, views, loss and kNN by themselves, and lightly's documented recipe (trainings.py)
on the same machine with the same encoder, batch and precision, and the number of workers that is fastest in a first try.
FLOPs are what torch.utils.flop_counter counts in an eager step; the peak is a bfloat16 product of 8192 x 8192 matrices in
this very run. Results are written after every part. `--tiny` runs all of it small, on any machine, and measures nothing.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from knn import by_kindred, by_lightly, features
from lightning import LightningModule, Trainer
from measure import wait
from report import Row, save_rows
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
PACKAGES = ("torch", "torchvision", "lightning", "lightly")


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


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--tiny", action="store_true", help="a small encoder, few images, on the CPU")
    options = parser.parse_args(arguments)
    count = 50 if options.tiny else 50_000
    epochs = 2 if options.tiny else 3
    data = ["data=cifar10", "data.source._target_=gpu.Noise", "~data.source.root", f"+data.source.count={count}"]
    data += ["data.val_size=0", f"trainer.max_epochs={epochs}", "trainer.check_val_every_n_epoch=1"]
    common = [*data, *(TINY if options.tiny else FULL)]
    device = torch.device("cpu" if options.tiny else "cuda")
    rows: list[Row] = []
    peak = peak_flops(device, 128 if options.tiny else 8192)

    config = compose(common)
    check(config)
    batch_size = config.data.batch_size
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    about = f"{name}, {config.trainer.precision}, compile={config.trainer.compile}, batch {batch_size}"
    save = partial(save_rows, options.output, "gpu", packages=PACKAGES, notes=about)
    encoder = f"{config.choices.encoder}, 32x32, batch {batch_size}"

    train = Noise(count).load("train")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def lightly(workers: int, passes: int, **limits: int) -> list[float]:
            where = {"accelerator": device.type, "precision": config.trainer.precision, **limits}
            new = build(config, "encoder")
            return train_lightly(
                train.array, train.labels, new, batch_size, workers, passes, place / "lightly", **where
            )

        cores = os.cpu_count()
        choices = [] if options.tiny else sorted({cores // 2, cores - 2, cores})
        tried = {workers: lightly(workers, 2, limit_train_batches=20)[0] for workers in choices}
        workers = max(tried, key=tried.get, default=0)
        peer = lightly(workers, epochs)

        for method in options.methods:
            overrides = [f"model={method}", *common]
            clock = Clock()
            torch.compiler.reset()  # the limit of recompilations counts per function, and all methods share the encoder's
            train_kindred(overrides, place / method, [clock])
            rates = clock.rates(batch_size)
            against = f"lightly's SimCLR recipe, {workers} workers" if method == "simclr" else "alone"
            theirs = peer if method == "simclr" else []
            target = 8 if method == "simclr" else None
            rows.append(Row(f"{method}: epochs, {encoder}", against, "images/s", rates, theirs, "times more", target))
            reached = [rate / batch_size * step_flops(overrides, device) / 1e12 for rate in rates]
            best = [max(peak) / 1e12]
            rows.append(
                Row(f"{method}: of the matrix peak", "bfloat16 product", "TFLOP/s", reached, best, "at least", 0.35)
            )
            if method == "simclr":
                rows += parts(config, device, batch_size / rates[-1], options.tiny)
                whole = 200 * clock.seconds[-1] + 20 * clock.evaluations[-1]
                what = "simclr: 200 epochs and 20 evaluations, from the last epoch and evaluation here"
                rows.append(Row(what, "6 minutes", "s", [whole], [360.0], "at most", 1.0))
            save(rows)
    return rows


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


if __name__ == "__main__":
    main()
