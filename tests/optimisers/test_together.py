"""Several optimisers as one: the same steps as each by itself, and one state."""

import copy
import math

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn

from kindred.optimisers.schedules import warmup_cosine
from kindred.optimisers.together import Together

STEPS = 8


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(torch.randn(3, 2, generator=generator).double()),
        nn.Parameter(torch.tensor(0.3, dtype=torch.float64)),
    ]


def make(weight, scalar, sgd):
    return sgd([weight], lr=0.3, momentum=0.9), torch.optim.Adam([scalar], lr=0.01)


def give_gradients(weight, scalar, step):
    generator = torch.Generator().manual_seed(step)
    weight.grad = torch.randn(3, 2, generator=generator).double()
    scalar.grad = torch.randn((), generator=generator).double()


def adam(gradients, rates, start=0.3):
    """Kingma & Ba 2015, algorithm 1, in plain numbers."""
    value, m, v = start, 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return value


@pytest.mark.parametrize("sgd", [torch.optim.SGD, LightlyLARS])
def test_each_takes_its_own_steps_in_one_schedule(sgd):
    weight, scalar = parameters()
    together = Together(*make(weight, scalar, sgd))
    schedule = warmup_cosine(together, 2, STEPS)
    alone, other = parameters()
    (reference, _), rates, gradients = make(alone, other, sgd), [], []
    reference_schedule = warmup_cosine(reference, 2, STEPS)
    for step in range(STEPS):
        rates.append(together.param_groups[1]["lr"])
        for optimizer, pair in ((together, (weight, scalar)), (reference, (alone, other))):
            give_gradients(*pair, step)
            optimizer.step()
        gradients.append(scalar.grad.item())
        schedule.step()
        reference_schedule.step()
    assert rates == pytest.approx([0.005, 0.01] + [0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])
    assert torch.equal(weight, alone)
    assert scalar.item() == pytest.approx(adam(gradients, rates), rel=1e-12)
    together.zero_grad()
    assert weight.grad is None
    assert scalar.grad is None


@pytest.mark.parametrize("sgd", [torch.optim.SGD, LightlyLARS])
def test_saved_and_restored_to_the_bit(sgd, tmp_path):
    def train(weight, scalar, together, first, last):
        for step in range(first, last):
            give_gradients(weight, scalar, step)
            together.step()

    weight, scalar = parameters()
    together = Together(*make(weight, scalar, sgd))
    train(weight, scalar, together, 0, 3)
    torch.save(together.state_dict(), tmp_path / "state.pt")
    values = copy.deepcopy([weight, scalar])
    train(weight, scalar, together, 3, STEPS)
    restored = Together(*make(*values, sgd))
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(*values, restored, 3, STEPS)
    assert torch.equal(weight, values[0])
    assert torch.equal(scalar, values[1])


def test_a_closure_is_called_once_with_gradients():
    weight, scalar = parameters()
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = (weight.sum() * scalar).square()
        loss.backward()
        return loss

    before = scalar.item()
    loss = Together(*make(weight, scalar, torch.optim.SGD)).step(closure)
    assert calls == [True]
    assert loss > 0
    assert scalar.item() != before
