"""Whole training epochs on `photos`: against lightly's recipe under lightning, and against a bare PyTorch loop.

    python benchmarks/training.py [--output benchmarks/results] [--rounds 2] [--tiny]

Kindred runs as `python -m kindred.train` does, with its callbacks and log; lightly's recipe (trainings.py) gets the same
images, encoder and batch size, and the number of workers that is fastest in a first try of half-length epochs. Rounds
alternate; of each training's three epochs the first is not counted, nor are evaluations, which the recipe has none of. The
bare loop takes the same batches through the same views, encoder, head, loss and optimiser: one of its epochs goes before
each of Kindred's, in the same process. Wall time on all cores.
"""

import argparse
import os
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from report import Row, save_rows
from trainings import EpochClock, train_kindred, train_lightly

from kindred.data.sources import Photos
from kindred.losses import nt_xent
from kindred.models.encoders import ConvNet
from kindred.optim import parameter_groups, warmup_cosine

WORKERS = [number for number in (0, 1, 2, 4, 8) if number <= (os.cpu_count() or 1)]
EPOCHS = 3
SHORT_ROUND = "trainer.limit_val_batches=1"  # evaluations are not counted; short ones do


class BareLoop(Callback):
    """Trains copies of the encoder and the head for an epoch, without Lightning, before each epoch of the Trainer's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.encoder, self.projector = deepcopy(module.encoder), deepcopy(module.projector)
        parameters = parameter_groups(torch.nn.ModuleList([self.encoder, self.projector]), 5e-4)
        self.optimizer = module.optimizer(parameters)
        self.scheduler = warmup_cosine(self.optimizer, 0, module.planned_steps)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        data = trainer.datamodule
        start = time.perf_counter()
        loader = data.train_dataloader()
        loader.set_epoch(trainer.current_epoch)
        for batch in loader:
            views = data.views(batch.images, batch.index, trainer.current_epoch)
            features = self.encoder(torch.cat([data.normalize(view) for view in views]))
            embeddings = self.projector(features).unflatten(0, (len(views), -1))
            self.optimizer.zero_grad()
            nt_xent(embeddings, module.temperature).backward()
            self.optimizer.step()
            self.scheduler.step()
        self.seconds.append(time.perf_counter() - start)


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for training.json and training.md")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each contestant")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--tiny", action="store_true", help="few images: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    batch_size, rounds, workers = (16, 1, ()) if options.tiny else (options.batch_size, options.rounds, WORKERS)

    source = Photos()
    source.prepare()
    train, step = source.load("train"), 100 if options.tiny else 1
    images, labels = train.images[::step], train.labels[::step]
    overrides = ["data=photos", f"data.batch_size={batch_size}", f"data.train_size={len(images)}", SHORT_ROUND]
    overrides += [f"trainer.max_epochs={EPOCHS}", "trainer=cpu", *(["~callbacks.figures"] if options.tiny else [])]

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def lightly(number: int, epochs: int, batches: int | None) -> list[float]:
            some = {"limit_train_batches": batches, "accelerator": "cpu"}
            return train_lightly(images, labels, ConvNet(), batch_size, number, epochs, place / "lightly", **some)

        half = max(1, len(images) // batch_size // 2)
        tried = {number: lightly(number, 2, half)[0] for number in workers}
        best = max(tried, key=tried.get, default=0)
        rates, peer_rates, steps, bare_steps = [], [], [], []
        for number in range(rounds):
            bare, clock = BareLoop(), EpochClock()
            train_kindred(overrides, place / f"kindred-{number}", [bare, clock])
            rates += clock.rates(batch_size)
            steps += [1000 * seconds / clock.steps for seconds in clock.seconds[1:]]
            bare_steps += [1000 * seconds / clock.steps for seconds in bare.seconds[1:]]
            peer_rates += lightly(best, EPOCHS, None)

    what = f"training step on photos, convnet, batch {batch_size}, under the Trainer with its callbacks"
    rows = [
        Row(
            f"training epochs on photos, convnet, batch {batch_size}",
            f"lightly's SimCLR recipe under lightning, {best} workers",
            "images/s",
            rates,
            peer_rates,
            "times more",
            1.8,
        ),
        Row(f"{what}: ratio", "the same in a bare PyTorch loop", "ms", steps, bare_steps, "at most", 1.08),
        Row(f"{what}: more", "the same in a bare PyTorch loop", "ms", steps, bare_steps, "more", 3.0),
    ]
    packages = ("torch", "lightning", "lightly")
    save_rows(
        options.output, "training", rows, packages, f"{torch.get_num_threads()} threads, wall time", workers=tried
    )
    return rows


if __name__ == "__main__":
    main()
