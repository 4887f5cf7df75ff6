"""Images as sequences: overlapping patches in rows and columns, each encoded by itself."""

from torch import Tensor, nn

from kindred.errors import ConfigError
from kindred.values import Count


class Patches(nn.Module):
    """An image as a grid of patches, read row by row from the top (CPC, van den Oord et al. 2018, section 3.2).

    With any encoder of images as the one that encodes each patch, its own pooling included. The features of an image are
    the mean of its patches', so that methods without windows, kNN and export see an encoder as any other.

    Args:
        encoder: patches [N, channels, size, size] -> [N, F], with the attribute `num_features` (F).
        image_size: height and width of the images in pixels.
        size: side of a patch.
        stride: from one patch to the next, down and to the right; of half a patch, half of it is its neighbour's.

    Raises:
        ConfigError: patches that do not end where the image does.
    """

    def __init__(self, encoder: nn.Module, image_size: Count, size: Count, stride: Count) -> None:
        super().__init__()
        num_features = getattr(encoder, "num_features", None)
        if not isinstance(num_features, int):
            raise ConfigError(
                f"encoder.encoder: {type(encoder).__name__} lacks the attribute num_features, the length of its features"
            )
        patches_along(image_size, size, stride)
        self.encoder, self.num_features = encoder, num_features
        self.size, self.stride = size, stride

    def encode_windows(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] -> latents [B, rows, columns, F]; a row is a step in time."""
        rows, columns = (patches_along(side, self.size, self.stride) for side in images.shape[2:])
        patches = images.unfold(2, self.size, self.stride).unfold(3, self.size, self.stride)
        # Pixels before channels in memory, as convolutions want it.
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(0, 2).permute(0, 3, 1, 2)
        return self.encoder(patches).unflatten(0, (-1, rows, columns))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] -> the mean of their latents [B, F]."""
        return self.encode_windows(images).mean(dim=(1, 2))


def patches_along(side: int, size: int, stride: int) -> int:
    """How many patches lie along a side of an image, in pixels.

    Raises:
        ConfigError: pixels are left over; with the strides that leave none.
    """
    if size > side:
        raise ConfigError(f"encoder.size is {size}: a patch must fit into an image of {side} pixels")
    if (side - size) % stride:
        fitting = [number for number in range(1, size + 1) if (side - size) % number == 0]
        nearest = sorted(sorted(fitting, key=lambda number: abs(number - stride))[:2])
        raise ConfigError(
            f"encoder.stride is {stride}: patches of {size} pixels do not end where an image of {side} does; "
            f"encoder.stride={' or '.join(map(str, nearest))} would"
        )
    return (side - size) // stride + 1
