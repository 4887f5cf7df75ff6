"""What an encoder offers to methods that look at the parts of an input in their order, as CPC does."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class WindowEncoder(Protocol):
    """An encoder of inputs that are sequences: of each window of an input by itself, and, called, of the whole input.

    Called with inputs [B, ...] it gives features [B, F], as any encoder does: the mean of the latents.

    Attributes:
        num_features: F.
    """

    num_features: int

    def encode_windows(self, inputs: Tensor) -> Tensor:
        """The latents z of the windows, before any pooling; `forward` is not called for it.

        Args:
            inputs: [B, ...].

        Returns:
            [B, T, F], window after window in time, the earliest first. Or [B, T, C, F] where C sequences run side by side,
            as the columns of an image, whose rows are the steps. T and C depend on the inputs' shape only. A latent may
            depend on its own window only, and windows may overlap.
        """
        ...


def latents_of(encoder: nn.Module, inputs: Tensor) -> Tensor:
    """Latents [B, T, C, F] of the windows of inputs [B, ...], by a WindowEncoder; C is 1 where it gives [B, T, F]."""
    assert isinstance(encoder, WindowEncoder)
    # Through the call of the module, on whose hooks precision and shards depend, as Lightning redirects `forward`.
    own = vars(encoder).pop("forward", None)
    vars(encoder)["forward"] = encoder.encode_windows
    try:
        latents = encoder(inputs)
    finally:
        del vars(encoder)["forward"]
        if own is not None:
            vars(encoder)["forward"] = own
    return latents if latents.ndim == 4 else latents.unsqueeze(2)
