"""The temperature: a number, a schedule, or learnt."""

import json
import math
import signal
from functools import partial
from itertools import pairwise

import pytest
import torch
from children import At, add_callback, kill_self, resume, start
from outcomes import assert_same, outcome

from kindred import load_run
from kindred.temperature import Cosine, Learnable, Temperature
from kindred.tracking.metrics_csv import read_metrics


def test_a_number_stays_as_it_is():
    assert Temperature(0.2)(0.0) == Temperature(0.2)(3.7) == 0.2
    assert not Temperature(0.2).state_dict()


def test_cosine():
    tau = Cosine(tau_min=0.1, tau_max=0.9, period_epochs=4)
    values = [0.9, 0.5, 0.1, 0.5, 0.9, 0.5, 0.1]
    assert [tau(float(epoch)) for epoch in range(7)] == pytest.approx(values)
    assert tau(0.5) == pytest.approx(0.1 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)  # moves within an epoch
    assert not tau.state_dict()  # a function of the step, which the checkpoint has


def test_learnable_is_its_logarithm():
    tau = Learnable(0.07)
    value = tau(5.0)
    assert value.item() == pytest.approx(0.07)
    value.backward()
    assert tau.log_tau.grad.item() == pytest.approx(0.07)  # d tau / d log tau = tau
    assert list(tau.state_dict()) == ["log_tau"]
    other = Learnable(0.5)
    other.load_state_dict(tau.state_dict())
    assert other(0.0) == tau(0.0)


def test_learnable_comes_back_from_its_bounds():
    tau = Learnable(initial=0.1, minimum=0.05, maximum=0.4)
    optimizer = torch.optim.SGD(tau.parameters(), lr=100.0)
    optimizer.register_step_post_hook(lambda *_: tau.bound())
    seen = []
    for sign in (1, 1, -1, -1, 1):
        (sign * tau(0.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(tau(0.0).item())
    assert seen == pytest.approx([0.05, 0.05, 0.4, 0.4, 0.05])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Temperature, 0), r"model\.temperature.*greater than 0.*0"),
        (partial(Temperature, math.nan), "greater than 0.*nan"),
        (partial(Cosine, tau_min=0), "tau_min.*greater than 0.*0"),
        (partial(Cosine, tau_min=0.5, tau_max=0.2), r"tau_min.*tau_max=0\.2.*0\.5"),
        (partial(Cosine, period_epochs=0), "period_epochs.*0"),
        (partial(Learnable, initial=2.0), r"initial=2\.0, maximum=1\.0"),
        (partial(Learnable, minimum=0), "minimum=0"),
        (partial(Learnable, lr=0), r"model\.temperature\.lr must be greater than 0, got 0"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LARS_AT_4_8 = ["model.optimizer._target_=kindred.optimisers.lars.LARS", "model.optimizer.lr=4.8"]


@pytest.mark.parametrize("optimiser", [[], LARS_AT_4_8], ids=["SGD", "LARS as on ImageNet"])
def test_learnable_moves_smoothly_whatever_trains_the_weights(optimiser, tmp_path):
    settings = ["temperature=learnable", "model.warmup_epochs=0", *optimiser]
    assert start(tmp_path / "run", [*settings, "~callbacks.figures", "~callbacks.linear_probe"]) == 0
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row["step"] > 0]
    moved = [math.log(b["train/temperature"] / a["train/temperature"]) for a, b in pairwise(rows)]
    rates = [5e-4 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(11)]
    # Adam's step is its rate, as long as the gradient's sign stays; a mean of the past, when it changes.
    assert all(abs(step) <= 1.01 * rate for step, rate in zip(moved, rates, strict=True))
    assert abs(moved[0]) == pytest.approx(rates[0], rel=1e-3)


# Whole runs: 3 epochs of 4 steps

RUNS = {
    "cosine": ["temperature=cosine", "model.temperature.period_epochs=2"],
    # Such a rate that tau meets its upper bound.
    "learnable": [
        "temperature=learnable",
        "model.temperature.initial=0.9",
        "model.temperature.lr=0.3",
        "model.optimizer.lr=1.0",
        "model.warmup_epochs=0",
    ],
}


@pytest.fixture(scope="module", params=[pytest.param("cosine", marks=pytest.mark.slow), "learnable"])
def unbroken(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / "run"
    assert start(directory, [*RUNS[request.param], "~callbacks.figures"]) == 0
    return request.param, directory


def test_a_killed_and_resumed_run_ends_as_if_never_stopped(unbroken, tmp_path):
    name, whole = unbroken
    run = tmp_path / "run"
    overrides = [*RUNS[name], "~callbacks.figures"]
    assert start(run, overrides, prepare=lambda: add_callback(At(7, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    assert_same(outcome(run), outcome(whole))


def test_the_value_of_each_step_is_logged(unbroken):
    name, directory = unbroken
    values = [row["train/temperature"] for row in read_metrics(directory / "metrics.csv") if row["step"] > 0]
    assert len(values) == 12
    if name == "cosine":  # eight steps a period, and the first step is taken at the start of it
        swing = [(1 + math.cos(2 * math.pi * step / 8)) / 2 for step in range(12)]
        assert values == pytest.approx([0.1 + 0.9 * s for s in swing])
    else:
        assert values[0] == pytest.approx(0.9)
        assert max(values) == 1.0  # its bound, from which it comes back
        assert 0.1 < values[-1] < 0.9


def test_the_run_is_read_back_with_its_temperature(unbroken):
    name, directory = unbroken
    module = load_run(directory).module
    last = json.loads((directory / "summary.json").read_text())["train/temperature"]
    if name == "cosine":
        assert isinstance(module.tau, Cosine)
    else:
        assert float(module.temperature.detach()) == pytest.approx(last, rel=0.2)  # one step further
        assert float(module.temperature.detach()) != pytest.approx(0.9)


def test_the_information_bound_is_that_of_the_loss(run):
    for row in read_metrics(run / "metrics.csv"):
        if row["step"] > 0:
            # Two views of each of 256 images, but the anchor itself.
            assert row["train/information_bound"] == pytest.approx(math.log(511) - row["train/loss"], abs=1e-5)
