"""Encoders: the features they promise, the stems, and modules from elsewhere."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from kindred.config import build, check, compose
from kindred.encoders.convnet import ConvNet
from kindred.encoders.resnet import resnet


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 96])
def test_convnet_takes_any_image(channels, size):
    encoder = ConvNet(channels)
    assert encoder(torch.rand(2, channels, size, size)).shape == (2, encoder.num_features)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [8, 33])
def test_convnet_pools_as_torch_does_with_gradients_in_the_order_of_its_layers(order, size):
    torch.manual_seed(0)
    encoder, images = ConvNet().to(memory_format=order), torch.rand(7, 3, size, size).to(memory_format=order)
    gradients = []
    encoder.layers.register_forward_hook(lambda module, inputs, output: output.register_hook(gradients.append) and None)
    pooled = torch.nn.Sequential(encoder.layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    found = []
    for network in (encoder, pooled):
        encoder.zero_grad()
        features = network(images)
        features.square().sum().backward()
        found.append([features, *(parameter.grad.clone() for parameter in encoder.parameters())])
    assert all(torch.equal(own, theirs) for own, theirs in zip(*found, strict=True))
    own, theirs = gradients
    assert torch.equal(own, theirs)
    assert own.is_contiguous(memory_format=torch.channels_last)


def test_convnet_costs_what_its_docstring_says():
    with FlopCounterMode(display=False) as counter:
        ConvNet()(torch.rand(1, 3, 32, 32))
    assert round(counter.get_total_flops() / 2e6) == 4


def test_without_its_classifier_a_resnet_is_torchvisions():
    torch.manual_seed(0)
    encoder, reference = resnet("resnet18"), resnet18(weights=None)
    reference.fc = torch.nn.Identity()
    reference.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert encoder.num_features == 512
    torch.testing.assert_close(encoder.eval()(images), reference.eval()(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_small_image_stem_keeps_the_resolution(channels):
    encoder = resnet("resnet18", in_channels=channels, small_images=True)
    shapes = {}
    encoder.layer1.register_forward_hook(lambda module, inputs, output: shapes.update(layer1=output.shape))
    assert encoder(torch.rand(2, channels, 32, 32)).shape == (2, 512)
    assert shapes["layer1"] == (2, 64, 32, 32)
    assert encoder.conv1.kernel_size == (3, 3)


def test_small_images_get_the_small_stem_by_themselves():
    for data, small in (("cifar10", True), ("stl10", False)):
        config = compose([f"data={data}"])
        check(config)
        assert config.encoder.small_images is small


def test_a_timm_model_works():
    pytest.importorskip("timm")
    config = compose(["encoder._target_=timm.create_model", "~encoder.widths", "~encoder.in_channels"])
    config.encoder = {"_target_": "timm.create_model", "model_name": "resnet10t", "num_classes": 0}
    assert build(config, "model", encoder=build(config, "encoder")).encoder.num_features == 512


def test_an_encoder_without_num_features_is_refused():
    config = compose()
    with pytest.raises(ValueError, match=r"encoder: Linear lacks the attribute num_features"):
        build(config, "model", encoder=torch.nn.Linear(2, 2))
