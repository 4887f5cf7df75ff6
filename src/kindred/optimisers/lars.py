"""Layer-wise adaptive rates for large batches, all layers at once and without waiting for the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum SGD whose step is as long as the layer's weights say (You, Gitman & Ginsburg 2017, arXiv:1708.03888).

    With gradient g, weight w, buffer v and the group's weight decay b, learning rate r and momentum m:

        ratio = trust_coefficient |w| / (|g| + b |w| + eps)
        v <- m v + r ratio (g + b w)
        w <- w - v, or w - (m v + r ratio (g + b w)) with nesterov

    The rate is inside the buffer, as in their algorithm 1 and in SimCLR's code, and not outside as in torch's SGD: a step
    keeps the length of its own time when the schedule moves on.

    The ratio is 1 where |w| or |g| is 0. What is adapted is decided by the tensor alone: norms, biases and scalars (at
    most one dimension) keep the ratio 1, as in SimCLR; everything else is adapted, with weight decay or without. So
    `weight_decay=0` takes the decay away and nothing else. Norms are computed in float32 at least, on the device.

    Args:
        params: parameters or parameter groups, such as `kindred.optimisers.parameter_groups.parameter_groups` gives.
        lr: r; SimCLR's is 0.3 x batch / 256 (arXiv:2002.05709, section 2.2).
        momentum: m.
        weight_decay: b.
        nesterov: see above; needs a momentum.
        trust_coefficient: 0.001 in both papers.
        eps: keeps the ratio finite.

    Raises:
        ValueError: naming an argument that is out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
        }
        for name, value in defaults.items():
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got momentum=0")
        super().__init__(params, defaults | {"nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` computes the gradients again, and what it returns is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # One kernel takes many tensors where device and dtype agree.
            alike: dict[tuple[bool, torch.device, torch.dtype], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault((weight.ndim > 1, weight.device, weight.dtype), []).append(weight)
            for (adapted, *_), weights in alike.items():
                self._step(weights, adapted, group)
        return loss

    def _step(self, weights: list[Tensor], adapted: bool, group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        updates = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if adapted:
            torch._foreach_mul_(updates, _trust_ratios(weights, gradients, group))
        torch._foreach_mul_(updates, group["lr"])
        if momentum := group["momentum"]:
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, updates)
            if group["nesterov"]:
                torch._foreach_add_(updates, buffers, alpha=momentum)
            else:
                updates = buffers
        torch._foreach_sub_(weights, updates)


def _trust_ratios(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """0-d tensors on the device, one for each weight."""
    dtype = torch.promote_types(weights[0].dtype, torch.float32)  # a norm may be too large for half precision
    weight, gradient = (torch.stack(torch._foreach_norm(some, 2, dtype)) for some in (weights, gradients))
    ratio = group["trust_coefficient"] * weight / (gradient + group["weight_decay"] * weight + group["eps"])
    return list(torch.where((weight > 0) & (gradient > 0), ratio, 1.0).unbind())
