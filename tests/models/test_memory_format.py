"""Images and weights in channels_last order: everywhere, and to the result it makes no difference."""

import os
import subprocess
import sys

import pytest
import torch
from drive import small, train
from torch import nn

from kindred.config import build, compose
from kindred.data.images.views import MultiView, View
from kindred.encoders.convnet import ConvNet
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon

METHODS = {SimCLR: {}, MoCoV2: {"queue_size": 14, "momentum": 0.7}, NNCLR: {"queue_size": 14}, SupCon: {}}


def in_order(x):
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def prepared(method, channels_last):
    """A method in float64 with batch norm in its encoder, as a Trainer of that setting prepares it."""
    module = small(method, encoder=lambda: ConvNet(widths=(4, 6)), **METHODS[method])
    config = compose(["trainer=cpu", f"trainer.channels_last={channels_last}"])
    build(config, "trainer", logger=False, callbacks=[]).speed_up(module)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_in_float64_are_those_in_torchs_own_order(method):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 2, 8, 3, 12, 12, generator=generator, dtype=torch.float64)
    batches = [
        ([view.contiguous(memory_format=torch.channels_last) for view in views], torch.arange(8) % 3)
        for views in images
    ]
    stacked = [(Views(views), labels) for views, labels in batches]
    last, own = (train(prepared(method, setting), stacked) for setting in (True, False))
    assert own["gradients"][-1].norm() > 1e-3
    for a, b in zip(last["gradients"], own["gradients"], strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()
    for key, value in own["state"].items():
        assert (last["state"][key] - value).double().norm() <= 1e-10 * value.double().norm(), key


class Views(list):
    """Views as a list, which keeps their order in memory, with the one index that a rank cuts its share by."""

    def __getitem__(self, index):
        return [view[index[1]] for view in self]


@pytest.mark.parametrize("channels_last", [True, False])
def test_no_layer_sees_the_other_order(channels_last):
    """A copy in between would cost what the order gains; and with `false` nothing is in it, as in runs before it."""
    module, seen = prepared(MoCoV2, channels_last), []

    def look(layer, inputs, output):
        seen.extend([in_order(inputs[0]), in_order(output)])

    for part in (module.encoder, module.key_encoder[0]):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
                layer.register_forward_hook(look)
                seen += [in_order(weight) for weight in layer.parameters() if weight.ndim == 4]
    images = torch.randn(8, 3, 12, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    features = module.encoder(images)
    module.key_encoder(images)
    features.square().sum().backward()
    weights = [weight for weight in module.encoder.parameters() if weight.ndim == 4]
    assert [in_order(weight.grad) for weight in weights] == [channels_last] * 2
    assert set(seen) == {channels_last}
    assert len(seen) == 2 * (6 * 2 + 2)


def test_views_leave_in_that_order_with_the_values_of_the_formula():
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    views = MultiView([View(jitter=1.0, hue=0.1), View()], seed=0)
    views.expect(16, mean, std)
    augmented = views.augment(images, torch.arange(5), 0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    for view, plain in zip(augmented, views(images, torch.arange(5), 0), strict=True):
        assert in_order(view)
        assert torch.equal(view, (plain - mean) / std)
    assert in_order(torch.cat(augmented))
    assert in_order(views.plain(images))
    assert torch.equal(views.plain(images), (images.float() / 255 - mean) / std)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "None")],
)
def test_openmps_threads_look_for_work_briefly_where_nothing_else_was_asked_for(asked, expected):
    """Before torch is there, which reads it once."""
    code = "import os, sys, kindred; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment | asked, capture_output=True, text=True)
    assert done.stdout.split() == [expected, "False"], done.stderr
