"""A batch in parts has the loss, gradients and queues of the whole one, and takes the memory of a part."""

import os
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from children import At, add_callback, kill_self, resume, start
from drive import Encoder, random_batches, small, train
from lightly.models.modules.heads import SimCLRProjectionHead
from outcomes import assert_same, outcome
from ranks import run_ranks
from torch import nn

from kindred.distributed import world_size
from kindred.errors import ConfigError
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.parts.chunks import in_parts
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon
from kindred.temperature import Learnable
from kindred.training.batch_norm import synchronise

CASES = {
    "simclr": (SimCLR, {}, {"views": 3}),
    "learnt temperature": (SimCLR, {"temperature": partial(Learnable, 0.2)}, {}),
    "mocov2": (MoCoV2, {"queue_size": 14, "momentum": 0.7}, {}),
    "mocov2, symmetric": (MoCoV2, {"queue_size": 17, "momentum": 0.5, "symmetric": True}, {}),
    "mocov2, key splits": (MoCoV2, {"queue_size": 14, "momentum": 0.7, "key_batch_splits": 6}, {}),
    "nnclr": (NNCLR, {"queue_size": 14}, {}),
    "supcon": (SupCon, {}, {}),
}


class WithBatchNorm(nn.Sequential):
    num_features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))


def run_case(name, chunks, encoder=Encoder, accumulate=1, prepare=lambda module: None):
    method, settings, shape = CASES[name]
    settings = {key: value() if isinstance(value, partial) else value for key, value in settings.items()}
    module = small(method, encoder, chunks=chunks, **settings)
    prepare(module)
    return train(module, random_batches(4, **shape, images=12), accumulate)


def assert_close(actual, expected, tolerance=1e-10):
    for key in ("losses", "gradients"):
        for step, (a, e) in enumerate(zip(actual[key], expected[key], strict=True)):
            assert (a - e).norm() <= tolerance * e.norm(), (key, step)
    for key, e in expected["state"].items():
        assert (actual["state"][key] - e).double().norm() <= tolerance * e.double().norm(), key
    assert all(gradient.norm() > 1e-3 for gradient in expected["gradients"][1:])


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_queues_are_those_of_the_whole_batch_on_one_rank_and_on_two(name):
    expected = run_case(name, 1)
    for chunks in (2, 3, 6):
        assert_close(run_case(name, chunks), expected)
    for result in run_ranks(run_case, 2, name, 3):
        assert_close(result, expected)


def test_accumulated_gradients_on_two_ranks_are_those_of_whole_batches():
    expected = run_case("simclr", 1, accumulate=2)
    for result in run_ranks(run_case, 2, "simclr", 2, Encoder, 2):
        assert_close(result, expected)


def synchronised(module):
    if world_size() > 1:
        synchronise(module)


def with_head(module):
    """Batch norm in the head as well, which sees each part by itself."""
    torch.manual_seed(1)
    module.projector = SimCLRProjectionHead(6, 7, 5).double()
    synchronised(module)


@pytest.mark.parametrize(
    ("name", "prepare"), [("simclr", with_head), ("mocov2, symmetric", synchronised), ("nnclr", synchronised)]
)
def test_with_batch_norm_the_parts_are_the_same_on_any_number_of_ranks(name, prepare):
    expected = run_case(name, 3, WithBatchNorm, prepare=prepare)
    for result in run_ranks(run_case, 2, name, 3, WithBatchNorm, 1, prepare):
        assert_close(result, expected)
    whole = run_case(name, 1, WithBatchNorm, prepare=prepare)
    assert (whole["losses"][1] - expected["losses"][1]).abs() > 1e-4  # a part's statistics are others


def passes(network, inputs, parts):
    """Result and gradients of a sum over all examples, not all with one weight."""
    result = in_parts(lambda x: network(x.flatten(0, 1)).unflatten(0, x.shape[:2]), network, (inputs,), parts, dim=1)
    torch.rand(1)  # as a loss may draw
    (result * torch.arange(result.numel()).view_as(result).cos()).sum().backward()
    return result.detach(), inputs.grad, [parameter.grad for parameter in network.parameters()]


def test_a_part_is_normalised_by_itself_and_running_statistics_move_once():
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.randn(2, 12, 3, generator=generator, dtype=torch.float64) + 1).requires_grad_()
    network = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.Linear(3, 2)).double()
    network[0].running_mean.fill_(5.0)
    result, *_ = passes(network, inputs, 4)
    means, variances = [], []
    for part in range(4):
        rows = inputs[:, part::4].detach().flatten(0, 1)
        normal = (rows - rows.mean(0)) / (rows.var(0, correction=0) + network[0].eps).sqrt()
        torch.testing.assert_close(result[:, part::4].flatten(0, 1), network[1](normal))
        means.append(rows.mean(0))
        variances.append(rows.var(0))
    torch.testing.assert_close(network[0].running_mean, 0.7 * 5 + 0.3 * torch.stack(means).mean(0))
    torch.testing.assert_close(network[0].running_var, 0.7 + 0.3 * torch.stack(variances).mean(0))
    assert network[0].num_batches_tracked == 1


class Dropout(nn.Module):
    """Random numbers of the global generator; keeps what each pass drew."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.drawn = []

    def forward(self, x):
        self.drawn.append(torch.rand_like(x))
        return x * self.scale * (self.drawn[-1] > 0.5)


def test_both_passes_draw_the_same_and_what_comes_after_is_not_disturbed():
    inputs = torch.ones(1, 8, 3, dtype=torch.float64, requires_grad=True)
    network = Dropout()
    torch.manual_seed(3)
    result, gradient, (of_scale,) = passes(network, inputs, 2)
    after = torch.rand(2)
    first, again = network.drawn[:2], network.drawn[2:]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)
    weights = torch.arange(24.0, dtype=torch.float64).view(1, 8, 3).cos()
    torch.testing.assert_close(gradient, weights * result)  # the same were dropped
    torch.testing.assert_close(of_scale, (weights * result).sum((0, 1)))
    torch.manual_seed(3)
    torch.rand_like(inputs)
    torch.rand(1)
    assert torch.equal(torch.rand(2), after)


class Shared(nn.Module):
    """Two weights that autograd gives one and the same gradient, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.idle = (nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(3))

    def forward(self, x):
        return x.sin() * 2 + (self.one + self.other)


def test_weights_with_one_gradient_and_weights_without():
    inputs = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    network = Shared()
    parts, whole = [], []
    for found, count in ((parts, 3), (whole, 1)):
        inputs.grad = None
        network.zero_grad()
        found += passes(network, inputs, count)
    torch.testing.assert_close(parts, whole)
    assert network.idle.grad is None


@pytest.mark.parametrize("autocast", [False, True])
def test_both_passes_are_in_the_precision_of_the_first_and_the_weights_can_be_used_beside_them(autocast):
    inputs, network = torch.randn(2, 6, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    gradients, precisions = [], []

    def call(x):
        found = network(x)
        precisions.append(found.dtype)
        return found

    for parts in (1, 3):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = in_parts(call, network, (inputs,), parts, dim=1)
            loss = found.float().square().sum() + network(inputs).float().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert precisions == [torch.bfloat16 if autocast else torch.float32] * 7
    torch.testing.assert_close(*gradients, rtol=0.02 if autocast else 1e-5, atol=0.05 if autocast else 1e-5)


def test_memory_is_that_of_a_part():
    """What autograd keeps of a forward pass, and the largest that a pass of a part keeps."""
    network, inputs = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2)), torch.randn(1, 64, 4)
    kept, most = [], []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    def call(x):
        kept.clear()
        found = network(x)
        most.append(sum(kept))
        return found

    for parts in (1, 8):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = in_parts(call, network, (inputs,), parts, dim=1)
            assert (parts == 1) or not any(most[1:])  # the first pass of a part keeps nothing
            found.sum().backward()
    weights = network[2].weight.numel()
    assert max(most[1:]) - weights == (most[0] - weights) / 8


def test_a_second_derivative_is_refused():
    inputs, network = torch.randn(1, 4, 3, requires_grad=True), nn.Linear(3, 2)
    found = in_parts(network, network, (inputs,), 2, dim=1)
    with pytest.raises(RuntimeError, match=r"model\.chunks: .*create_graph, or chunks=1"):
        torch.autograd.grad(found.square().sum(), inputs, create_graph=True)


@pytest.mark.parametrize(
    ("chunks", "ranks", "right"),
    [
        (3, 1, "128 examples .* as 2 or 4 would"),
        (64, 2, "64 examples .* 2 device.* as 32 would"),
        (128, 1, "as 64 would"),
    ],
)
def test_parts_that_do_not_fit_the_batch_are_refused_with_those_that_do(chunks, ranks, right):
    module = small(SimCLR, chunks=chunks)
    with pytest.raises(ConfigError, match=rf"^model\.chunks is {chunks}: .*{right}$"):
        module.check(SimpleNamespace(views=[1, 2], batch_size=128), ranks)
    small(SimCLR, chunks=32).check(SimpleNamespace(views=[1, 2], batch_size=128), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "mocov2", "nnclr"])
def test_a_run_in_parts_killed_and_resumed_ends_as_if_never_stopped(name, tmp_path):
    settings = [f"model={name}", "model.chunks=4", "trainer.max_epochs=2", "model.projection_dim=16"]
    settings += {"mocov2": ["model.queue_size=1500"], "nnclr": ["model.queue_size=600", "model.predictor_dim=32"]}.get(
        name, []
    )
    settings.append("~callbacks.figures")
    assert start(tmp_path / "whole", settings) == 0
    assert start(tmp_path / "run", settings, prepare=lambda: add_callback(At(3, kill_self))) == -signal.SIGKILL
    assert resume(tmp_path / "run") == 0
    ours, theirs = outcome(tmp_path / "run"), outcome(tmp_path / "whole")
    assert repr(ours.pop("rows")) == repr(theirs.pop("rows"))
    assert_same(ours, theirs)


COMPILED = """
import torch
from torch import nn
from kindred.models.parts.chunks import in_parts

network = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5)).double()
inputs = torch.randn(1, 64, 4, dtype=torch.float64, requires_grad=True)
network.compile()
result = in_parts(network, network, (inputs,), 4, dim=1)
result.sum().backward()
kept = 2.0 * (result != 0).double()
print(float((inputs.grad - kept @ network[0].weight).abs().max()), float(kept.mean()))
"""


@pytest.mark.slow
def test_a_compiled_network_draws_the_same_in_both_passes():
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMPILED]
    found = subprocess.run(command, check=True, timeout=280, env=environment, capture_output=True, text=True)
    difference, kept = map(float, found.stdout.split())
    assert difference < 1e-12  # the gradient's zeros are the result's
    assert 0.8 < kept < 1.2
