"""A step of training never waits for the device: neither the views, nor a method, a loss, LARS or what watches them.

Where there is no GPU the same code runs on the "meta" device: it takes a GPU's ways, and its tensors have no values.
"""

from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from waits import Waits

from kindred import losses
from kindred.callbacks.guard import Guard
from kindred.callbacks.train_metrics import TrainMetrics
from kindred.data.images.datamodule import ImageDataModule
from kindred.data.images.views import MultiView, View, operations
from kindred.data.loading import Batch
from kindred.encoders.convnet import ConvNet
from kindred.encoders.patches import Patches
from kindred.models.cpc import CPC
from kindred.models.instdisc import InstDisc
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.parts.neighbours import Oracle, Soft, TopK
from kindred.models.simclr import SimCLR
from kindred.models.simclrv2 import SimCLRv2
from kindred.models.supcon import SupCon
from kindred.optimisers.lars import LARS
from kindred.temperature import Learnable

COLOURS = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "gray": 0.2}
VIEWS = (
    View(size=8, **COLOURS, blur=0.5, solarize=0.2),
    View(size=8, **COLOURS, rotate=20, translate=0.1, zoom=(0.9, 1.1)),
)
METHODS = {
    "cpc": (CPC, {}),
    "cpc, mixed, conv": (CPC, {"negatives": "mixed", "context": "conv", "chunks": 2}),
    "instdisc": (InstDisc, {"noise_samples": 5}),
    "instdisc, full": (InstDisc, {"loss": "contrastive"}),
    "simclr": (SimCLR, {}),
    "mocov2": (MoCoV2, {"queue_size": 16, "momentum_end": 1.0, "symmetric": True}),
    "mocov2, splits": (MoCoV2, {"queue_size": 16, "key_batch_splits": 2}),
    "nnclr": (NNCLR, {"queue_size": 16, "predictor_dim": 16}),
    "nnclr, top k": (NNCLR, {"queue_size": 16, "predictor_dim": 16, "neighbours": TopK(3), "momentum": 0.9}),
    "nnclr, soft": (NNCLR, {"queue_size": 16, "predictor_dim": 16, "neighbours": Soft(3)}),
    "nnclr, oracle": (NNCLR, {"queue_size": 16, "predictor_dim": 16, "neighbours": Oracle()}),
    "simclrv2": (SimCLRv2, {"memory_size": 16}),
    "supcon": (SupCon, {}),
    "simclr, chunks": (SimCLR, {"chunks": 2}),
    "mocov2, chunks": (MoCoV2, {"queue_size": 16, "chunks": 4}),
    "learnable temperature": (SimCLR, {"temperature": partial(Learnable, 0.2)}),
}
DEVICES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == "meta":  # it knows no autocast, which the losses switch off
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    return request.param


@contextmanager
def no_wait(device):
    with Waits(device) as waits:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert waits.found == []
    assert waits.calls


class Training:
    """What the Trainer does at each step, and the callbacks that do something at each step."""

    def __init__(self, method, settings, optimizer, device):
        settings = {key: value() if isinstance(value, partial) else value for key, value in settings.items()}
        source = SimpleNamespace(mean=(0.5,) * 3, std=(0.2,) * 3)
        self.data = ImageDataModule(source, MultiView(VIEWS, seed=0), batch_size=8, image_size=8, channels=3)
        encoder, widths = ConvNet(widths=(4, 8)), {"hidden_dim": 16, "projection_dim": 8}
        if method is CPC:
            encoder, widths = Patches(encoder, image_size=8, size=2, stride=1), {"hidden_dim": 16}
        self.module = method(encoder, optimizer, **widths, **settings).to(device)
        self.trainer = SimpleNamespace(
            training=True,
            current_epoch=0,
            max_epochs=1,
            world_size=1,
            is_last_batch=False,
            global_step=1,
            log_every_n_steps=1000,
            accumulate_grad_batches=1,
            limit_train_batches=1.0,
            datamodule=SimpleNamespace(
                train_dataloader=lambda: range(9), train_is_labelled=True, is_judged=True, num_classes=3
            ),
        )
        if method is InstDisc:
            self.module.bank.fill(torch.arange(8, device=device), seed=0)
        self.data.trainer = self.module.trainer = self.trainer
        made = self.module.configure_optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.callbacks = [Guard(), TrainMetrics()]
        for callback in self.callbacks:
            callback.setup(self.trainer, self.module, "fit")
            callback.on_fit_start(self.trainer, self.module)

    def step(self, batch, number):
        batch = self.data.on_after_batch_transfer(batch, 0)
        self.step_on_views(batch, number)

    def step_on_views(self, batch, number):
        self.module.on_train_batch_start(batch, number)
        outputs = self.module.training_step(batch, number)
        self.optimizer.zero_grad()
        outputs["loss"].backward()
        self.module.on_after_backward()
        self.optimizer.step()
        self.scheduler.step()
        self.trainer.global_step += 1
        for callback in self.callbacks:
            callback.on_train_batch_end(self.trainer, self.module, outputs, batch, number)


def random_batch(device):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 12, 12), generator=generator, dtype=torch.uint8)
    return Batch(*(tensor.to(device) for tensor in (images, torch.arange(8) % 3, torch.arange(8))))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, LARS])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_training(device, monkeypatch, name, optimizer):
    monkeypatch.setattr(operations, "on_host", lambda tensor: False)  # "cpu": the ways of a GPU, with values
    if device == "cpu":  # Adam keeps the number of its steps on the host, and reads it there; the fused one does not
        monkeypatch.setattr(Learnable, "optimizer", lambda tau: torch.optim.Adam([tau.log_tau], tau.lr, fused=True))
    training = Training(*METHODS[name], partial(optimizer, lr=0.1, momentum=0.9, weight_decay=1e-4), device)
    batch = random_batch(device)
    training.step(batch, 0)  # makes the optimisers' state, copies mean and deviation, and fills a queue
    with no_wait(device):
        training.step(batch, 1)


def test_on_a_cpu_only_the_views_look_at_values():
    """They save the colours of the images that keep theirs: where the values are, looking at them costs nothing."""
    training = Training(*METHODS["simclr"], partial(torch.optim.SGD, lr=0.1), "cpu")
    batch = random_batch("cpu")
    training.step(batch, 0)
    with Waits() as waits:
        seen = training.data.on_after_batch_transfer(batch, 0)
    assert set(waits.found) == {"nonzero"}
    with no_wait("cpu"):
        training.step_on_views(seen, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_views_are_the_same_on_the_way_that_a_gpu_takes(monkeypatch, threads):
    before = torch.get_num_threads()
    images, _, index = random_batch("cpu")
    try:
        torch.set_num_threads(threads)
        expected = MultiView(VIEWS, 3)(images, index, 5)
        monkeypatch.setattr(operations, "on_host", lambda tensor: False)
        for ours, theirs in zip(MultiView(VIEWS, 3)(images, index, 5), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    finally:
        torch.set_num_threads(before)


LOSSES = {
    **losses.BY_GROUP,
    **{f"{name} of a queue": loss for name, loss in losses.BY_QUEUE.items()},
    **{f"triplet, {mining}": partial(losses.triplet, mining=mining) for mining in ("all", "hard", "semi_hard")},
    "contrastive, several tiles": partial(losses.group_contrast, chunk_size=5),
}


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss(device, name, learnt):
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(n, 4, generator=generator).to(device).requires_grad_() for n in (12, 7))
    tau = torch.tensor(0.2).to(device).requires_grad_() if learnt else 0.2
    groups, own = (torch.arange(12) % 5).to(device), torch.arange(12).to(device)
    arguments = (rows, rows.flip(0), others) if "queue" in name else (rows, rows, groups, groups, own)
    with no_wait(device):
        LOSSES[name](*arguments, tau).backward()
    assert rows.grad is not None


@pytest.mark.parametrize("labelled", [False, True])
def test_a_loss_over_the_ranks(device, labelled):
    embeddings = torch.randn(2, 6, 4).to(device).requires_grad_()
    labels = (torch.arange(6) % 3 - 1).to(device)
    with no_wait(device):
        loss = losses.sup_con(embeddings, labels, 0.2) if labelled else losses.nt_xent(embeddings, 0.2)
        loss.backward()


class ReadsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient.sum())


@pytest.mark.parametrize(
    ("found", "spoil"),
    [
        ("_local_scalar_dense", lambda x: x.sum().item()),
        ("_local_scalar_dense", lambda x: bool((x > 0).all())),
        ("_local_scalar_dense", lambda x: x[x.argmax()]),
        ("nonzero", lambda x: x.nonzero()),
        ("index by a mask", lambda x: x[x > 0]),
        ("index_put_ by a mask", lambda x: x.index_put_((x > 0,), torch.ones_like(x))),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("_unique2", lambda x: x.unique()),
        ("repeat_interleave", lambda x: x.repeat_interleave(x.long())),
        ("_local_scalar_dense", lambda x: ReadsInBackward.apply(x.requires_grad_()).sum().backward()),
    ],
)
def test_what_waits_is_found(found, spoil):
    with Waits() as waits:
        spoil(torch.ones(3))
    assert found in waits.found


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_copies_that_wait_are_found(spoil):
    with Waits("meta") as waits:
        spoil(torch.ones(3, device="meta"))
        torch.ones(3).to("meta", non_blocking=True)
        torch.ones(3, device="meta").mul_(2).float().double()
    assert len(waits.found) == 1
