"""Methods trained without a Trainer: small, in float64, without batch norm, each rank on its share of a global batch."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kindred.data.loading import ViewBatch
from kindred.distributed import rank, sum_over_ranks, world_size
from kindred.models.cpc import CPC
from kindred.models.distilled import Distilled
from kindred.models.finetuned import FineTuned
from kindred.models.instdisc import InstDisc
from kindred.models.nnclr import NNCLR
from kindred.models.parts.momentum import momentum_copy
from kindred.models.simclr import SimCLR
from kindred.models.simclrv2 import SimCLRv2


class Encoder(nn.Sequential):
    """Images [B, 1, 3, 3] -> features [B, 6]."""

    num_features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 6))


class CropEncoder(Encoder):
    """The same for smaller images [B, 1, 2, 2] too."""

    def forward(self, images):
        return super().forward(nn.functional.adaptive_avg_pool2d(images, 3))


class RowsEncoder(nn.Module):
    """Images [B, 1, H, W] -> windows of a pixel and its column's number [B, H, W, 6], row after row."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))

    def encode_windows(self, images):
        pixels = images[:, 0]
        return self.network(torch.stack([pixels, torch.arange(pixels.shape[2]).expand_as(pixels)], dim=-1))

    def forward(self, images):
        return self.encode_windows(images).mean(dim=(1, 2))


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, outputs))


def small(method, encoder=Encoder, **settings):
    """A method with embeddings of length 5, from the same weights each time; heads that had batch norm have none."""
    torch.manual_seed(0)
    if method is NNCLR:
        settings["predictor_dim"] = 7
    if issubclass(method, FineTuned):
        settings |= {"classes": 3, "widths": [7], "batch_norm": False}
    else:
        settings = {"hidden_dim": 7} | ({} if method is CPC else {"projection_dim": 5}) | settings
    student = encoder()
    if method is Distilled:
        settings |= {"teacher": encoder(), "teacher_widths": [4], "teacher_batch_norm": False}
    module = method(student, partial(torch.optim.SGD, lr=0.1, weight_decay=1e-3), **settings)
    if method is Distilled:  # one that has learnt something
        nn.init.normal_(module.teacher.projector.classifier.weight)
    if method in (SimCLR, SimCLRv2, NNCLR):
        module.projector = mlp(6, 5)
    if method is NNCLR:
        module.predictor = mlp(5, 5)
    if method in (SimCLRv2, NNCLR) and module.key_encoder is not None:
        module.key_encoder = momentum_copy(module.encoder, module.projector)
    module.double().train()
    if method is InstDisc:
        module.bank.fill(torch.arange(12), seed=0)
    return module


def random_batches(count, views=2, images=6, crops=0):
    """`count` global batches: views [V, B, 1, 3, 3], or also `crops` smaller ones, and labels [B], of which some are -1."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        (
            torch.randn(views, images, 1, 3, 3, generator=generator, dtype=torch.float64),
            torch.randint(-1, 3, (images,), generator=generator),
        )
        for _ in range(count)
    ]
    small = [torch.randn(crops, images, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(count)]
    return (
        [([*large, *more], labels) for (large, labels), more in zip(batches, small, strict=True)] if crops else batches
    )


def view_batch(views, labels, first=0):
    """What a method is given: V views of the same examples, their labels, and their positions, those from `first` on."""
    return ViewBatch(tuple(views), labels, torch.arange(first, first + len(labels)))


def attach_trainer(module, batches, accumulate=1, global_step=0):
    """What a method may know of a Trainer, for a run of one epoch of so many batches."""
    module.trainer = SimpleNamespace(
        global_step=global_step,
        accumulate_grad_batches=accumulate,
        max_epochs=1,
        limit_train_batches=1.0,
        datamodule=SimpleNamespace(train_dataloader=lambda: range(batches)),
    )
    return module.trainer


def train(module, batches, accumulate=1, first=0, last=None):
    """Train on batches[first:last], with the hooks in Lightning's order and its DistributedDataParallel on several ranks.

    Returns, for each batch, the loss and the logs (means over the ranks); for each optimiser step the gradient, all
    parameters' in one vector; and the state afterwards.
    """
    trainer = attach_trainer(module, len(batches), accumulate, first // accumulate)
    optimizer = module.build_optimizer()
    module.forward = module.contrast  # as Lightning redirects it, so that DDP sees a training step
    wrapped = DistributedDataParallel(module) if world_size() > 1 else module
    losses, logs, gradients = [], [], []
    for index, (views, labels) in list(enumerate(batches))[first:last]:
        share = slice(rank() * len(labels) // world_size(), (rank() + 1) * len(labels) // world_size())
        stepping = (index + 1) % accumulate == 0
        module.on_train_batch_start(None, index)
        with nullcontext() if stepping or world_size() == 1 else wrapped.no_sync():
            epoch = 2 * len(labels)  # the images that a method may know by their positions
            first = (index * len(labels)) % epoch + share.start
            loss, log = wrapped(view_batch([view[share] for view in views], labels[share], first))
            (loss / accumulate).backward()
        module.on_after_backward()
        losses.append(sum_over_ranks(loss.detach()) / world_size())
        values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in log.items()}
        logs.append({name: sum_over_ranks(value) / world_size() for name, value in values.items()})
        if stepping:
            trained = [p for p in module.parameters() if p.requires_grad]
            gradients.append(torch.cat([p.grad.flatten() for p in trained]))
            optimizer.step()
            optimizer.zero_grad()
            trainer.global_step += 1
    return {"losses": losses, "logs": logs, "gradients": gradients, "state": dict(module.state_dict())}
