"""Parameter groups, the schedule, and learning-rate rules."""

import math
import subprocess
import sys

import pytest
import torch
from lightly.utils.scheduler import cosine_warmup_schedule
from torch import nn

from kindred.config import linear_lr, sqrt_lr
from kindred.optimisers.parameter_groups import parameter_groups
from kindred.optimisers.schedules import warmup_cosine


def test_only_weights_decay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    module.temperature = nn.Parameter(torch.tensor(0.1))
    module[2].weight.requires_grad_(False)
    decayed, others = parameter_groups(module, 0.01)
    assert decayed["weight_decay"] == 0.01
    assert others["weight_decay"] == 0
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight)]
    expected = {module[0].bias, module[1].weight, module[1].bias, module[2].bias, module.temperature}
    assert set(others["params"]) == expected


def test_empty_groups_and_nothing_to_train():
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.1)) == 1
    assert len(parameter_groups(nn.BatchNorm1d(2), 0.1)) == 1
    with pytest.raises(ValueError, match="Linear has no parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def rates(warmup_steps, total_steps, steps=None):
    optimizer = torch.optim.SGD(parameter_groups(nn.Linear(2, 2), 0.1), lr=2.0)
    scheduler = warmup_cosine(optimizer, warmup_steps, total_steps)
    result = []
    for _ in range(total_steps if steps is None else steps):
        result.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_schedule_closed_form():
    expected = [0.5, 1.0, 1.5, 2.0] + [1 + math.cos(math.pi * t / 6) for t in range(6)]
    assert rates(4, 10) == pytest.approx(expected)
    assert rates(0, 3) == pytest.approx([2.0, 1.5, 0.5])
    assert rates(0, 1) == [2.0]


def test_warmup_longer_than_the_run_is_cut_to_it():
    assert rates(100, 4) == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_nothing_is_left_beyond_the_end():
    assert rates(2, 5, steps=8)[5:] == [0, 0, 0]
    assert rates(5, 5, steps=7)[5:] == [0, 0]


def test_schedule_against_lightly():
    # lightly reaches the end value at its last step, and we one step later: our T steps are the first of its T + 1.
    # Its warm-up is ours.
    theirs = [2 * cosine_warmup_schedule(t, 11, 1.0, 0.0, 4, 0.0) for t in range(10)]
    assert rates(4, 10) == pytest.approx(theirs)


def test_schedule_goes_on_from_its_state():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, 2, 9)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, 2, 9)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == rates(2, 9)[5]


def test_schedule_errors_name_the_value():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(ValueError, match=r"total_steps.*0"):
        warmup_cosine(optimizer, 1, 0)
    with pytest.raises(ValueError, match=r"warmup_steps.*-1"):
        warmup_cosine(optimizer, -1, 5)


def test_learning_rate_rules():
    assert linear_lr(0.06, 128, 512) == pytest.approx(0.24)
    assert linear_lr(0.3, 256, 1024, accumulation=4) == pytest.approx(4.8)  # SimCLR at batch 4096
    assert sqrt_lr(0.075, 4096) == pytest.approx(4.8)
    assert sqrt_lr(0.075, 1024, accumulation=4) == pytest.approx(4.8)


def test_learning_rate_rules_import_no_torch():
    code = "import sys, kindred.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
