"""One training of time_to_accuracy.py, as a process of its own: Kindred's, lightly's recipe, or a plain PyTorch loop.

    python benchmarks/rivals.py '{"contestant": "plain", "method": "simclr", ...}'     (time_to_accuracy.py calls it)

All get the folder of JPEG files, the convnet, a head of one hidden layer, the batch, SGD with a cosine and the same
strength of augmentation; each brings its own reading, augmentation and loss. Kindred trains as `kindred train` does;
lightly's recipes are those of its examples/pytorch_lightning/simclr.py and moco.py; the plain loop has torchvision's
transforms, and the losses as SimCLR's and MoCo's authors' code writes them: so MoCo's queue is full of random vectors at
first, but in `plain_empty`, where it holds the keys that there have been, as Kindred's. Imports are inside the functions:
each pays for its own.
"""

import json
import os
import sys
import time
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kindred.encoders.convnet import ConvNet
from kindred.optimisers.parameter_groups import parameter_groups
from kindred.optimisers.schedules import warmup_cosine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIM, QUEUE, MOMENTUM = 128, 4096, 0.99


class Snapshots:
    """The encoder and the seconds since the command was given, after some of the epochs.

    Args:
        folder: for `<epoch>.pt`.
        began: by time.time().
        epochs, count: the run's epochs, and how many of them, evenly spread, are kept; the last is.
    """

    def __init__(self, folder: Path, began: float, epochs: int, count: int) -> None:
        self.folder, self.began = folder, began
        self.kept = {round(epochs * (number + 1) / count) for number in range(count)}

    def take(self, epoch: int, encoder: nn.Module) -> None:
        """After `epoch` epochs."""
        if epoch in self.kept:
            seconds = time.time() - self.began
            torch.save({"seconds": seconds, "encoder": encoder.state_dict()}, self.folder / f"{epoch}.pt")


class Learner(nn.Module):
    """Encoder and head of a peer, with a momentum copy and a queue where the method is MoCo v2."""

    def __init__(self, method: str, widths: list[int], hidden: int) -> None:
        super().__init__()
        self.encoder = ConvNet(widths=tuple(widths))
        features = self.encoder.num_features
        if method == "simclr":
            norms = nn.BatchNorm1d(hidden), nn.BatchNorm1d(DIM)
            middle = nn.Linear(features, hidden, bias=False), norms[0], nn.ReLU(), nn.Linear(hidden, DIM, bias=False)
            self.head = nn.Sequential(*middle, norms[1])
        else:
            self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, DIM))
            self.key = deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Of the momentum copy, once it has moved."""
        query = [*self.encoder.parameters(), *self.head.parameters()]
        for key, weight in zip(self.key.parameters(), query, strict=True):
            key.mul_(MOMENTUM).add_(weight, alpha=1 - MOMENTUM)
        return self.key(images)

    def optimiser(self, lr: float, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD(parameter_groups(self, 5e-4), lr=lr, momentum=0.9)
        return optimizer, warmup_cosine(optimizer, 0, steps)


def kindred(settings: dict, snapshots: Snapshots) -> None:
    from lightning import Callback
    from trainings import train_kindred

    class Take(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
            if trainer.is_last_batch:  # before the evaluation, which the others have none of
                snapshots.take(trainer.current_epoch + 1, module.encoder)

    epochs, tau = settings["epochs"], settings["temperature"]
    overrides = [
        f"model={settings['method']}",
        "data=imagefolder",
        "encoder=convnet",
        "trainer=cpu",
        "~callbacks.figures",
    ]
    overrides += [f"encoder.widths={settings['widths']}", f"data.source.root={settings['images']}"]
    overrides += [f"data.source.cache_dir={snapshots.folder / 'cache'}", f"data.batch_size={settings['batch']}"]
    overrides += [f"model.hidden_dim={settings['hidden']}", f"model.projection_dim={DIM}", f"model.temperature={tau}"]
    overrides += ["model.warmup_epochs=0", f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]
    if settings["method"] == "mocov2":
        overrides += ["model.symmetric=false", f"model.queue_size={QUEUE}", f"model.momentum={MOMENTUM}"]
    train_kindred([*overrides, f"seed={settings['seed']}"], snapshots.folder / "run", [Take()])


def lightly(settings: dict, snapshots: Snapshots) -> None:
    from lightly.data import LightlyDataset
    from lightly.data.multi_view_collate import MultiViewCollate
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from lightning import LightningModule, Trainer, seed_everything

    method, tau = settings["method"], settings["temperature"]
    seed_everything(settings["seed"], verbose=False)
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    dataset = LightlyDataset(str(Path(settings["images"]) / "train"), transform=transform)
    loader = _loader(dataset, settings, MultiViewCollate())

    class Recipe(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.learner = Learner(method, settings["widths"], settings["hidden"])
            queue = {"memory_bank_size": (QUEUE, DIM)} if method == "mocov2" else {}
            self.criterion = NTXentLoss(temperature=tau, **queue)

        def training_step(self, batch, batch_idx: int) -> Tensor:
            (one, other), *_ = batch
            second = self.learner.keys(other) if method == "mocov2" else self.learner(other)
            return self.criterion(self.learner(one), second)

        def configure_optimizers(self):
            optimizer, scheduler = self.learner.optimiser(settings["lr"], settings["epochs"] * len(loader))
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_train_epoch_end(self) -> None:
            snapshots.take(self.current_epoch + 1, self.learner.encoder)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_epochs=settings["epochs"], accelerator="cpu", devices=1, **quiet).fit(Recipe(), loader)


def plain(settings: dict, snapshots: Snapshots, empty: bool = False) -> None:
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    method, tau, batch = settings["method"], settings["temperature"], settings["batch"]
    torch.manual_seed(settings["seed"])
    crop, jitter = T.RandomResizedCrop(32, (0.08, 1.0)), T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    view = T.Compose(
        [crop, T.RandomHorizontalFlip(), jitter, T.RandomGrayscale(0.2), T.ToTensor(), T.Normalize(MEAN, STD)]
    )
    loader = _loader(
        ImageFolder(str(Path(settings["images"]) / "train"), lambda image: (view(image), view(image))), settings
    )
    learner = Learner(method, settings["widths"], settings["hidden"])
    optimizer, scheduler = learner.optimiser(settings["lr"], settings["epochs"] * len(loader))
    queue, place = F.normalize(torch.randn(QUEUE, DIM)), 0
    for epoch in range(settings["epochs"]):
        for (one, other), _ in loader:
            if method == "simclr":
                z = F.normalize(learner(torch.cat([one, other])))
                logits = (z @ z.T / tau).fill_diagonal_(-torch.inf)
                loss = F.cross_entropy(logits, torch.arange(2 * batch).roll(batch))
            else:
                query, key = F.normalize(learner(one)), F.normalize(learner.keys(other))
                held = queue[:place] if empty else queue
                logits = torch.cat([(query * key).sum(1, keepdim=True), query @ held.T], dim=1) / tau
                loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if method == "mocov2":
                queue[(place + torch.arange(batch)) % QUEUE] = key
                place += batch
        snapshots.take(epoch + 1, learner.encoder)


def _loader(dataset, settings: dict, collate=None) -> torch.utils.data.DataLoader:
    workers = settings["workers"]
    options = {"collate_fn": collate, "num_workers": workers, "persistent_workers": workers > 0}
    return torch.utils.data.DataLoader(dataset, settings["batch"], shuffle=True, drop_last=True, **options)


def main(text: str) -> None:
    settings = json.loads(text)
    warnings.filterwarnings("ignore")  # of libraries, about how they are used here
    os.chdir(Path(__file__).parent)
    snapshots = Snapshots(Path(settings["folder"]), settings["began"], settings["epochs"], settings["snapshots"])
    contestants = {"kindred": kindred, "lightly": lightly, "plain": plain, "plain_empty": partial(plain, empty=True)}
    contestants[settings["contestant"]](settings, snapshots)


if __name__ == "__main__":
    main(sys.argv[1])
