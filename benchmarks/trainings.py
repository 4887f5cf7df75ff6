"""Trainings as users run them: Kindred's, and lightly's documented SimCLR recipe on the same images with the same encoder.

The recipe is that of lightly's examples/pytorch_lightning/simclr.py and cifar10_benchmark.py: PIL images in a
LightlyDataset, SimCLRTransform and MultiViewCollate in the loader's workers, one pass of the encoder per view, NTXentLoss,
SGD. The transform has the strength that lightly advises for small images (0.5) and no blur, as Kindred's views of them.
"""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from lightly.data import LightlyDataset
from lightly.data.multi_view_collate import MultiViewCollate
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightning import Callback, LightningModule, Trainer
from measure import wait
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets.vision import VisionDataset

from kindred.config import build, check, compose
from kindred.runs.reading.weights import bound_settings
from kindred.runs.run import build_datamodule, build_module
from kindred.runs.train import quieten
from kindred.tracking.csv_logger import MetricsCSV
from kindred.training.checkpoints import AtomicCheckpointIO


class EpochClock(Callback):
    """Seconds and steps of each epoch's training: from its start to the end of its last step.

    Evaluations and the checkpoint at the end of an epoch are left out. In the first epoch much happens for the first
    time, and its loader was started before it: leave it out too.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps = 0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        wait(module.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if trainer.is_last_batch:
            wait(module.device)
            self.seconds.append(time.perf_counter() - self.start)
            self.steps = batch_idx + 1

    def rates(self, batch_size: int) -> list[float]:
        """Images per second of every epoch but the first."""
        return [self.steps * batch_size / seconds for seconds in self.seconds[1:]]


def train_kindred(overrides: Sequence[str], directory: Path, callbacks: Sequence[Callback]) -> Trainer:
    """Train as `kindred train` does, in this process, with `callbacks` after the run's own.

    The untrained encoder is not evaluated.
    """
    quieten()
    config = compose([*overrides, "~callbacks.progress", "trainer.enable_progress_bar=false"])
    check(config)
    directory.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(config.seed, verbose=False)
    datamodule, module = build_datamodule(config), build_module(config)
    trainer = build(
        config,
        "trainer",
        default_root_dir=str(directory),
        callbacks=[*build(config, "callbacks").values(), *callbacks],
        logger=[MetricsCSV(directory)],
        plugins=[AtomicCheckpointIO(bound_settings(config))],
    )
    trainer.speed_up(module)
    trainer.fit(module, datamodule)
    return trainer


class Pictures(VisionDataset):
    """Images in memory as torchvision's CIFAR10 holds them: an array, of which each item becomes a PIL image."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.images, self.labels = np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class LightlySimCLR(LightningModule):
    """The recipe's module around an encoder that gives features [B, F]."""

    def __init__(self, encoder: nn.Module, lr: float) -> None:
        super().__init__()
        self.backbone = encoder
        self.projection_head = SimCLRProjectionHead(encoder.num_features, 512, 128)
        self.criterion = NTXentLoss()
        self.lr = lr

    def training_step(self, batch, batch_index: int) -> Tensor:
        (x0, x1), _, _ = batch
        z0, z1 = (self.projection_head(self.backbone(x)) for x in (x0, x1))
        loss = self.criterion(z0, z1)
        self.log("train_loss_ssl", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)


def train_lightly(
    images: np.ndarray,
    labels: np.ndarray,
    encoder: nn.Module,
    batch_size: int,
    workers: int,
    epochs: int,
    directory: Path,
    **options,
) -> list[float]:
    """Images per second of every epoch but the first.

    Args:
        images: uint8 [N, 3, H, H].
        labels: int64 [N].
        encoder: with `num_features`.
        batch_size, workers: of the loader.
        epochs: two or more.
        directory: for what the Trainer writes.
        options: of the Trainer.
    """
    transform = SimCLRTransform(input_size=images.shape[-1], cj_strength=0.5, gaussian_blur=0.0)
    dataset = LightlyDataset.from_torch_dataset(Pictures(images, labels), transform=transform)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=MultiViewCollate(),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
    )
    clock = EpochClock()
    with warnings.catch_warnings():
        for message in ("does not have many workers", "logging interval", "tensorboardX"):
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        trainer = Trainer(
            max_epochs=epochs,
            devices=1,
            default_root_dir=str(directory),
            callbacks=[clock],
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(LightlySimCLR(encoder, lr=0.06 * batch_size / 128), loader)
    return clock.rates(batch_size)
