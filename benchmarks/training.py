"""Whole training epochs on `photos`: against lightly's recipe under lightning, and against a bare PyTorch loop.

    python benchmarks/training.py [--output benchmarks/results] [--rounds 2] [--tiny]

Kindred runs as `kindred train` does, with its callbacks and log; lightly's recipe (trainings.py) gets the same
images, encoder and batch size, and the number of workers that is fastest in a first try of epochs a third as long. Rounds
alternate; of each training's three epochs the first is not counted, nor are evaluations, which the recipe has none of.
In epochs after those each of the Trainer's steps follows one of a bare loop in the same process, over the same batches with
the same views, encoder, head, loss and optimiser: so a slow moment of the machine hits both. How many milliseconds the
Trainer adds is measured around a narrower encoder, whose shorter step has less noise. Wall time on all cores; with
OMP_NUM_THREADS=1 the steps' time is the processor's, and --steps leaves out the rest, to measure beside other programs.
"""

import argparse
import os
import tempfile
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from lightning import Callback, LightningModule, Trainer
from measure import clock, clock_note
from report import Row, save_rows
from trainings import EpochClock, train_kindred, train_lightly

from kindred.data.images.embedded import Photos
from kindred.encoders.convnet import ConvNet
from kindred.losses import nt_xent
from kindred.optimisers.parameter_groups import parameter_groups
from kindred.optimisers.schedules import warmup_cosine

WORKERS = [number for number in (0, 1, 2, 4, 8) if number <= (os.cpu_count() or 1)]
EPOCHS, PAIRED_EPOCHS, NARROW_EPOCHS = 3, 2, 6
NARROW = "encoder.widths=[8,8,8,256]"
SHORT_ROUND = "trainer.limit_val_batches=1"  # evaluations are not counted; short ones do


class BareLoop(Callback):
    """Trains copies of the encoder and the head, without Lightning, a step before each step of the Trainer's.

    `pairs` has, of every epoch from `first_epoch` on, the Trainer's milliseconds per step and the bare loop's. The Trainer's
    step is all that happens between two steps of the bare loop, so what it does at the two ends of an epoch is in none.
    """

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch, self.clock = first_epoch, clock()
        self.pairs: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch < self.first_epoch:
            return
        if trainer.current_epoch == self.first_epoch:
            self.encoder, self.projector = deepcopy(module.encoder), deepcopy(module.projector)
            parameters = parameter_groups(torch.nn.ModuleList([self.encoder, self.projector]), 5e-4)
            self.optimizer = module.optimizer(parameters)
            self.scheduler = warmup_cosine(self.optimizer, 0, module.planned_steps)
        loader = trainer.datamodule.train_dataloader()
        loader.set_epoch(trainer.current_epoch)
        self.batches = iter(loader)
        self.times: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch, batch_idx: int) -> None:
        if trainer.current_epoch >= self.first_epoch:
            start = self.clock()
            self.step(trainer, module)
            self.times.append((start, self.clock()))

    def step(self, trainer: Trainer, module: LightningModule) -> None:
        data, batch = trainer.datamodule, next(self.batches)
        views = data.views.augment(batch.raw, batch.index, trainer.current_epoch)
        features = self.encoder(torch.cat(views))
        embeddings = self.projector(features).unflatten(0, (len(views), -1))
        self.optimizer.zero_grad()
        nt_xent(embeddings, module.temperature).backward()
        self.optimizer.step()
        self.scheduler.step()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch >= self.first_epoch:
            steps = list(pairwise(self.times))
            trained = mean(begun - ended for (_, ended), (begun, _) in steps)
            bare = mean(ended - begun for _, (begun, ended) in steps)
            self.pairs.append((1000 * trained, 1000 * bare))


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for training.json and training.md")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each contestant")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", action="store_true", help="the Trainer's step against the bare loop's, and no more")
    parser.add_argument("--tiny", action="store_true", help="few images: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    batch_size, rounds, workers = (
        (16, 1, ()) if options.tiny else (options.batch_size, options.rounds, () if options.steps else WORKERS)
    )

    source = Photos()
    source.prepare()
    train, step = source.load("train"), 100 if options.tiny else 1
    images, labels = train.array[::step], train.labels[::step]
    overrides = ["data=photos", f"data.batch_size={batch_size}", f"data.train_size={len(images)}", SHORT_ROUND]
    overrides += ["trainer=cpu", *(["~callbacks.figures"] if options.tiny else [])]
    narrow_epochs = 2 if options.tiny else NARROW_EPOCHS

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def lightly(number: int, epochs: int, batches: int | None) -> list[float]:
            some = {"limit_train_batches": batches, "accelerator": "cpu"}
            return train_lightly(images, labels, ConvNet(), batch_size, number, epochs, place / "lightly", **some)

        third = max(1, len(images) // batch_size // 3)
        tried = {number: lightly(number, 2, third)[0] for number in workers}
        best = max(tried, key=tried.get, default=0)
        rates, peer_rates, pairs, narrow_pairs = [], [], [], []
        for number in range(rounds):
            if not options.steps:
                bare, epochs = BareLoop(first_epoch=EPOCHS), EpochClock()
                length = f"trainer.max_epochs={EPOCHS + PAIRED_EPOCHS}"
                train_kindred([*overrides, length], place / f"kindred-{number}", [bare, epochs])
                rates += epochs.rates(batch_size)[: EPOCHS - 1]
                pairs += bare.pairs
                peer_rates += lightly(best, EPOCHS, None)
            bare, length = BareLoop(first_epoch=1), f"trainer.max_epochs={1 + narrow_epochs}"
            train_kindred([*overrides, NARROW, length], place / f"narrow-{number}", [bare])
            narrow_pairs += bare.pairs

    what = f"training step on photos, convnet, batch {batch_size}, under the Trainer with its callbacks"
    bare_loop = "the same in a bare PyTorch loop"
    rows = []
    if not options.steps:
        epochs_of = f"training epochs on photos, convnet, batch {batch_size}"
        recipe = f"lightly's SimCLR recipe under lightning, {best} workers"
        rows.append(Row(epochs_of, recipe, "images/s", rates, peer_rates, "times more", 1.8))
        rows.append(Row(f"{what}: ratio", bare_loop, "ms", *map(list, zip(*pairs, strict=True)), "at most", 1.08))
    narrow = list(map(list, zip(*narrow_pairs, strict=True)))
    rows.append(Row(f"{what}: more", bare_loop, "ms", *narrow, "more", 3.0, "narrow convnet"))
    packages, name = ("torch", "lightning", "lightly"), "trainer_step" if options.steps else "training"
    save_rows(options.output, name, rows, packages, clock_note(), workers=tried)
    return rows


if __name__ == "__main__":
    main()
