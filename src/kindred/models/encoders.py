"""Encoders: images [B, C, H, W] -> features [B, F]. Any module with the attribute `num_features` (F) can stand in."""

from torch import Tensor, nn


class ConvNet(nn.Module):
    """A small ResNet-like stack for CPUs: four million multiply-adds for a 32x32 image with the default widths.

    The first block keeps the resolution of its stem, each further one halves it; global average pooling ends it, so any
    image size works.

    Args:
        in_channels: channels of the images.
        widths: channels of each block; the last is F.
    """

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        if not widths:
            raise ValueError(f"widths: needs at least one block, got {widths}")
        self.num_features = widths[-1]
        blocks, channels = [], in_channels
        for width in widths:
            blocks += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.layers = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def resnet(name: str = "resnet18", in_channels: int = 3, small_images: bool = False) -> nn.Module:
    """torchvision's ResNet `name` without its classifier, from random weights.

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnet152, or a wide or ResNeXt variant of torchvision's.
        in_channels: channels of the images.
        small_images: a 3x3 stem with stride 1 and no max-pool, for CIFAR-sized images (SimCLR, appendix B.9).
    """
    import torchvision.models

    known = torchvision.models.list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"])
    if name not in known:
        raise ValueError(f"encoder.name: {name!r} is no ResNet of torchvision's; choose one of {', '.join(known)}")
    encoder = torchvision.models.get_model(name, weights=None)
    encoder.num_features = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if small_images:
        encoder.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
        encoder.maxpool = nn.Identity()
    elif in_channels != 3:
        encoder.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision starts its own
    return encoder
