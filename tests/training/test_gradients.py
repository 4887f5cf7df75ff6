"""Gradients are summed over ranks in one order, in a process's first step as in its last."""

import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kindred.training.gradients import sum_parameter_by_parameter


class UsedInAnotherOrder(nn.Module):
    """DDP fills its buckets by the order of registration at first, and by that of use from the second step on."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Linear(7, 1), nn.Linear(5, 7)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def gradients_of_steps(hooked):
    """Of the same weights and inputs, in the first and in the second step of a process."""
    torch.manual_seed(0)
    model = DistributedDataParallel(UsedInAnotherOrder())
    if hooked:
        trainer = type("Trainer", (), {"strategy": type("Strategy", (), {"model": model})})
        module = type("Module", (), {"device": torch.device("cpu")})
        sum_parameter_by_parameter(trainer, module)
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(dist.get_rank()))
    found = []
    for _ in range(3):
        model.zero_grad()
        model(inputs).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    return found


def test_the_first_step_of_a_process_is_as_any_other():
    for hooked, same in ((True, True), (False, False)):
        for first, _, later in run_ranks(gradients_of_steps, 3, hooked):
            assert all(torch.equal(one, other) for one, other in zip(first, later, strict=True)) is same
            for one, other in zip(first, later, strict=True):
                torch.testing.assert_close(one, other)


def test_the_sum_is_ddp_s_mean():
    hooked, plain = (run_ranks(gradients_of_steps, 3, way)[0][0] for way in (True, False))
    for one, other in zip(hooked, plain, strict=True):
        torch.testing.assert_close(one, other)
