"""LARS against lightly's, against the paper's equations written out, and what is left out of the adaptation."""

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn
from waits import Waits

from kindred.optimisers.lars import LARS
from kindred.optimisers.parameter_groups import parameter_groups

SHAPES = [(3, 4), (2, 3, 3, 3), (5, 1), (4,), ()]


def tensors(dtype=torch.float64, shapes=SHAPES):
    """Parameters of different scales."""
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter((torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**-i).to(dtype))
        for i, shape in enumerate(shapes)
    ]


def give_gradients(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for i, p in enumerate(parameters):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 3.0**i
        p.grad = noise.to(p.dtype)


def schedule(step):
    """A rate that falls as fast as it may."""
    return 0.3 * 0.5**step


def trained(optimizer, parameters, first=0, last=6, rate=None):
    for step in range(first, last):
        give_gradients(parameters, step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step) if rate else group["lr"]
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def as_module(parameters):
    module = nn.Module()
    for i, p in enumerate(parameters):
        module.register_parameter(f"p{i}", p)
    return module


@pytest.mark.parametrize("momentum", [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_values_of_lightly(momentum, eps):
    # With decayed weights and undecayed vectors the two rules of what is adapted say the same. Theirs has the rate outside
    # the momentum, which is the same as long as it does not change.
    settings = {"lr": 0.3, "eps": eps, "trust_coefficient": 0.02, **momentum}
    ours, theirs = tensors(), tensors()
    found = trained(LARS(parameter_groups(as_module(ours), 0.01), **settings), ours)
    expected = trained(LightlyLARS(parameter_groups(as_module(theirs), 0.01), **settings), theirs)
    for a, e, start in zip(found, expected, tensors(), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-15)
        assert not torch.equal(a, start)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("nesterov", [False, True])
def test_values_of_the_equations_in_one_group(decay, nesterov):
    found = tensors()
    optimizer = LARS(found, lr=0.3, momentum=0.8, weight_decay=decay, nesterov=nesterov)
    found = trained(optimizer, found, rate=schedule)
    expected = tensors()
    velocity = [torch.zeros_like(p.data) for p in expected]
    for step in range(6):
        give_gradients(expected, step)
        for i, p in enumerate(expected):
            w, g = p.data, p.grad
            ratio = 0.001 * w.norm().item() / (g.norm().item() + decay * w.norm().item() + 1e-8) if w.ndim > 1 else 1
            # You et al. 2017, algorithm 1: the local and the global rate are in the momentum. Nesterov: SimCLR's code.
            update = schedule(step) * ratio * (g + decay * w)
            velocity[i] = 0.8 * velocity[i] + update
            p.data = w - (0.8 * velocity[i] + update if nesterov else velocity[i])
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e.data, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_weights_of_zero_and_gradients_of_zero_have_the_ratio_one(decay):
    new, idle = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.full((2, 2), 4.0))
    new.grad, idle.grad = torch.full((2, 2), 3.0), torch.zeros(2, 2)
    LARS([new, idle], lr=0.5, weight_decay=decay).step()
    torch.testing.assert_close(new.data, torch.full((2, 2), -1.5))
    torch.testing.assert_close(idle.data, torch.full((2, 2), 4 - 0.5 * decay * 4))


def test_a_step_without_weight_decay_is_as_long_as_the_weight_says():
    # lightly's does not adapt it at all: the step would be the gradient's length.
    weight, bias = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
    weight.grad, bias.grad = 100 * torch.randn(8, 8), 100 * torch.randn(8)
    before, bias_before = weight.detach().clone(), bias.detach().clone()
    LARS([weight, bias], lr=2.0).step()
    torch.testing.assert_close((weight - before).norm(), 2.0 * 0.001 * before.norm())
    torch.testing.assert_close((bias - bias_before).norm(), 2.0 * bias.grad.norm())


def test_parameters_without_a_gradient_stay():
    used, unused = tensors(shapes=[(2, 2), (2, 2)])
    before = unused.detach().clone()
    used.grad = torch.ones_like(used)
    optimizer = LARS([used, unused], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(unused, before)
    assert unused not in optimizer.state


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    half, single = tensors(dtype), [nn.Parameter(p.detach().float()) for p in tensors(dtype)]
    mixed = [*half, *single]  # in one optimiser
    optimizer = LARS(mixed, lr=0.1, weight_decay=0.01)
    for step in range(3):
        give_gradients(half, step)
        for h, s in zip(half, single, strict=True):
            s.grad = h.grad.float()
        optimizer.step()
    for h, s in zip(half, single, strict=True):
        assert h.dtype == dtype
        torch.testing.assert_close(h.float(), s.data, rtol=0.02, atol=0.02 * s.detach().abs().max().item())


def test_a_norm_beyond_half_precision():
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.float16))
    weight.grad = torch.full((64, 64), 6e4, dtype=torch.float16)  # of norm 3.8e6; the largest half is 65504
    LARS([weight], lr=100.0).step()
    torch.testing.assert_close(weight.float(), torch.full((64, 64), 0.9), rtol=2e-3, atol=0)


def test_goes_on_from_its_state():
    whole = tensors()
    expected = trained(LARS(whole, lr=0.3, weight_decay=0.01), whole)
    parameters = tensors()
    first = LARS(parameters, lr=0.3, weight_decay=0.01)
    trained(first, parameters, last=3)
    second = LARS(parameters, lr=7.0)
    second.load_state_dict(first.state_dict())
    for a, e in zip(trained(second, parameters, first=3), expected, strict=True):
        assert torch.equal(a, e)


def test_closure():
    weight = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert LARS([weight], lr=1.0).step(closure) == 4
    torch.testing.assert_close(weight.data, torch.full((2, 2), 0.999))  # |w| = 2, |g| = 4, g = 2


def test_a_step_waits_for_nothing_and_takes_all_layers_at_once():
    counts = []
    for layers in (2, 20):
        parameters = tensors(shapes=[(3, 3)] * layers + [(3,)] * layers)
        optimizer = LARS(parameters, lr=0.1, weight_decay=0.1)
        trained(optimizer, parameters, last=1)
        give_gradients(parameters, 1)
        with Waits() as waits:
            optimizer.step()
        assert waits.found == []
        counts.append(waits.calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be 0 or more, got -1.0"),
        ({"lr": float("nan")}, "lr must be 0 or more, got nan"),
        ({"lr": 1.0, "trust_coefficient": -0.1}, "trust_coefficient must be 0 or more, got -0.1"),
        ({"lr": 1.0, "momentum": 0, "nesterov": True}, "nesterov needs a momentum above 0"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ValueError, match=message):
        LARS([nn.Parameter(torch.zeros(1))], **settings)
