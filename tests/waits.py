"""Finds where the host would wait for a device, on a machine that may have none."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# They hand a value, or a shape that depends on values, to the host.
READS = {
    *("item", "_local_scalar_dense", "is_nonzero", "equal"),
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "bincount"),
}


class Waits(TorchDispatchMode):
    """Keeps the operations that wait for `device`, by name, in `found`, and how many operations there were in `calls`.

    Besides the reads: a boolean mask as an index, and copies between devices that do not say `non_blocking`, those of
    Python numbers by `torch.tensor` included. Tensors on the "meta" device take the ways that those on a GPU take, and
    have no values that could be read.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.calls += 1
        name = operation._schema.name.removeprefix("aten::")
        if name in READS and args[0].device.type == self.device and kwargs.get("output_size") is None:
            self.found.append(name)
        if name.strip("_").startswith("index") and any(_is_mask(index) for index in _flat(args[1:2])):
            self.found.append(f"{name} by a mask")
        result = operation(*args, **kwargs)
        if name == "lift_fresh" and args[0].device.type != "cpu":
            self.found.append("torch.tensor")
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            blocking = not (kwargs.get("non_blocking") or (name == "copy_" and any(args[2:])))
            if source.device != result.device and blocking:
                self.found.append(f"{name} from {source.device.type} to {result.device.type}")
        return result


def _flat(arguments: Any) -> list[Any]:
    return [item for argument in arguments for item in (argument if isinstance(argument, list | tuple) else [argument])]


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
