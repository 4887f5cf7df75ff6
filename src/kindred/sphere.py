"""Onto the unit sphere, where embeddings are compared."""

import torch
import torch.nn.functional as F
from torch import Tensor


def raise_precision(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """Unit vectors [..., D] in float32 at least, whatever the length of x [..., D]; zero stays zero.

    A power of two near the largest entry is taken out first, so that no square overflows (as from 1e19 on in float32) or
    underflows. That is exact: in between, every bit is that of `torch.nn.functional.normalize`, of the gradient too.
    """
    x = raise_precision(x)
    with torch.no_grad():
        largest = x.abs().amax(dim=-1, keepdim=True)
        integer, exponent = (torch.int32, 0xFF << 23) if x.dtype == torch.float32 else (torch.int64, 0x7FF << 52)
        power = (largest.view(integer) & exponent).view(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)
        power.masked_fill_(largest == 0, 1)  # its gradient is to be finite
    return F.normalize(x / power, dim=-1)
