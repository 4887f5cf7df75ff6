"""Batches that do not fit into memory: encoded in parts, twice, for a loss over all of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def in_parts(
    call: Callable[..., Tensor], network: nn.Module, inputs: tuple[Tensor, ...], parts: int, dim: int = 0
) -> Tensor:
    """`call(*inputs)`, of which one part at a time is held in memory (GradCache; Gao et al. 2021, arXiv:2101.06983).

    Each part is computed without a graph, and once more when its gradient is due, with the same random numbers: memory is
    one part's, time one forward pass more. To whoever asks for gradients it is one operation on `inputs` and the weights:
    each weight gets its gradient once and whole, which is what DDP, a loss scaler and accumulation count on.

    Part i holds the examples i, i + parts, ...: W ranks with 1/W of the batch each so make the same parts as one process.
    A norm over the batch is one over each part (of all ranks, if it is synchronised); its running statistics move once,
    by the mean of the parts'. Other buffers that the network changes are left as the first pass leaves them.

    Args:
        call: makes of tensors with B examples each a result with examples in dimension 1, [V, B, ...], by `network`.
        network: whose parameters are to be trained.
        inputs: what is cut.
        parts: n, a divisor of B. 1: the call itself.
        dim: which dimension of the inputs the examples are, 0 or 1.

    Raises:
        RuntimeError: in backward, for a gradient that is to be differentiated.
    """
    if parts == 1:
        return call(*inputs)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return _InParts.apply(call, network, parts, dim, len(inputs), *inputs, *weights)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, network, parts, dim, count, *tensors):
        inputs = tensors[:count]
        device = inputs[0].device
        ctx.how = call, network, parts, dim, count
        ctx.save_for_backward(*tensors)
        ctx.autocast, ctx.draws = _autocast(device), []
        layers = [layer for layer in network.modules() if isinstance(layer, _NormBase)]
        # .data: no graph that holds them shall take this for a change.
        buffers = [buffer.data for layer in layers for buffer in layer.buffers(recurse=False)]
        before, statistics = [b.clone() for b in buffers], [b for b in buffers if b.is_floating_point()]
        means = [torch.zeros_like(b) for b in statistics]
        whole = None
        for part in range(parts):
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            ctx.draws.append(_random_state(device))
            found = call(*(_cut(x, part, parts, dim) for x in inputs))
            if whole is None:
                whole = found.new_empty(len(found), parts * found.shape[1], *found.shape[2:])
            _cut(whole, part, parts, 1).copy_(found)
            for mean, statistic in zip(means, statistics, strict=True):
                mean.add_(statistic, alpha=1 / parts)
        for statistic, mean in zip(statistics, means, strict=True):
            statistic.copy_(mean)
        return whole

    @staticmethod
    def backward(ctx, *grads):
        if torch.is_grad_enabled():
            raise RuntimeError("model.chunks: what comes in parts is differentiable once: no create_graph, or chunks=1")
        call, network, parts, dim, count = ctx.how
        inputs, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        device, wanted = inputs[0].device, ctx.needs_input_grad[5 : 5 + count]
        buffers = [b.data for b in network.buffers()]
        kept, random_state = [b.clone() for b in buffers], _random_state(device)
        of_inputs = [torch.empty_like(x) if want else None for x, want in zip(inputs, wanted, strict=True)]
        of_weights = [None] * len(weights)
        for part in range(parts):
            _set_random_state(device, ctx.draws[part])
            own = [_cut(x, part, parts, dim).detach() for x in inputs]
            asked = [x.requires_grad_() for x, want in zip(own, wanted, strict=True) if want]
            with torch.enable_grad(), ctx.autocast:
                found = call(*own)
            gradients = iter(
                torch.autograd.grad(found, [*asked, *weights], _cut(grads[0], part, parts, 1), allow_unused=True)
            )
            del found
            for whole in of_inputs:
                if whole is not None and (gradient := next(gradients)) is not None:
                    _cut(whole, part, parts, dim).copy_(gradient)
            # Not in place: two weights may have been given one and the same tensor.
            of_weights = [
                new if old is None else old if new is None else old + new
                for old, new in zip(of_weights, gradients, strict=True)
            ]
        _set_random_state(device, random_state)
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)
        return None, None, None, None, None, *of_inputs, *of_weights


def _cut(x: Tensor, part: int, parts: int, dim: int) -> Tensor:
    return x[part::parts] if dim == 0 else x[:, part::parts]


def _autocast(device: torch.device) -> AbstractContextManager:
    """Autocast as it is on `device` now: a backward pass is outside of it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, dtype=dtype, enabled=enabled)


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU's generator, and of the device's."""
    states = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state)
