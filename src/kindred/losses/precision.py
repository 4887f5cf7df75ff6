"""What every loss does to its arguments first: raise half precision, normalise, look at the temperature."""

import torch
import torch.nn.functional as F
from torch import Tensor


def raise_precision(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """Unit vectors [..., D] in float32 at least."""
    return F.normalize(raise_precision(x), dim=-1)


def check_temperature(temperature: float | Tensor) -> None:
    """Refuse a temperature that is not positive. A tensor is not looked at: reading its value would wait for the device."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
