"""torchvision's residual networks as encoders."""

from typing import Any

from torch import nn

from kindred.errors import ConfigError
from kindred.values import Count


def resnet(name: str = "resnet18", in_channels: Count = 3, small_images: bool = False) -> nn.Module:
    """torchvision's ResNet `name` without its classifier, from random weights.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152, or a wide or ResNeXt variant of torchvision's.
        in_channels: channels of the images.
        small_images: a 3x3 stem with stride 1 and no max-pool, for CIFAR-sized images (SimCLR, appendix B.9).
    """
    import torchvision.models

    known = torchvision.models.list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"])
    if name not in known:
        raise ConfigError(f"encoder.name: {name!r} is no ResNet of torchvision's; choose one of {', '.join(known)}")
    # Any: to torchvision a ResNet has no other attributes and no other layers than its own.
    encoder: Any = torchvision.models.get_model(name, weights=None)
    encoder.num_features = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if small_images:
        encoder.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    elif in_channels != 3:
        encoder.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision starts its own
    return encoder
