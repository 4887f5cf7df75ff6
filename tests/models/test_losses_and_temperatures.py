"""Each method with other losses and temperatures: exact on several ranks, and refused where they do not belong."""

from functools import partial

import pytest
import torch
from children import start
from drive import random_batches, small, train
from ranks import run_ranks
from test_exactness import STEPS, assert_close, assert_trained

from kindred import losses
from kindred.config import ConfigError, check, compose
from kindred.models.instdisc import InstDisc
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon
from kindred.optimisers.lars import LARS
from kindred.runs.run import build_module
from kindred.temperature import Cosine, Learnable
from kindred.tracking.metrics_csv import read_metrics

QUEUE = {"queue_size": 14}
CASES = {
    **{f"simclr, {loss}": (SimCLR, {"loss": loss}) for loss in losses.BY_GROUP if loss != "contrastive"},
    **{f"supcon, {loss}": (SupCon, {"loss": loss}) for loss in losses.BY_GROUP if loss != "contrastive"},
    **{f"nnclr, {loss}": (NNCLR, {"loss": loss, **QUEUE}) for loss in losses.BY_NEIGHBOUR if loss != "contrastive"},
    **{f"mocov2, {loss}": (MoCoV2, {"loss": loss, **QUEUE}) for loss in losses.BY_QUEUE if loss != "contrastive"},
    "simclr, semi-hard": (SimCLR, {"loss": "triplet", "loss_options": {"mining": "semi_hard", "margin": 1.0}}),
    "simclr, cosine": (SimCLR, {"temperature": partial(Cosine, 0.1, 0.8, 0.7)}),
    "nnclr, cosine": (NNCLR, {"temperature": partial(Cosine, 0.1, 0.8, 0.7), **QUEUE}),
    "mocov2, learnable": (MoCoV2, {"temperature": partial(Learnable, 0.3), "symmetric": True, **QUEUE}),
    "supcon, learnable": (SupCon, {"temperature": partial(Learnable, 0.3)}),
    "instdisc, learnable": (InstDisc, {"temperature": partial(Learnable, 0.3)}),
    "nnclr, learnable": (NNCLR, {"temperature": partial(Learnable, 0.3), **QUEUE}),
    "simclr, learnable, nce": (SimCLR, {"temperature": partial(Learnable, 0.3), "loss": "nce"}),
}


def run_case(name, accumulate=1):
    method, settings = CASES[name]
    made = {key: value() if isinstance(value, partial) else value for key, value in settings.items()}
    return train(small(method, **made), random_batches(STEPS), accumulate)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_do_what_one_does(name):
    expected = run_case(name)
    assert sum(gradient.norm() for gradient in expected["gradients"]) > 1e-3
    for result in run_ranks(run_case, 2, name):
        assert_close(result, expected)
    if "learnable" in name:
        assert expected["state"]["tau.log_tau"] != Learnable(0.3).log_tau.double()


@pytest.mark.parametrize("name", ["simclr, cosine", "mocov2, learnable"])
def test_three_ranks_and_accumulated_gradients(name):
    expected = run_case(name, accumulate=2)
    assert_trained(expected)
    for result in run_ranks(run_case, 3, name, 2):
        assert_close(result, expected)


def test_cosine_moves_with_the_steps():
    module = small(SimCLR, temperature=Cosine(0.1, 0.9, period_epochs=1))
    assert module.temperature == 0.9  # without a Trainer, before the first step
    train(module, random_batches(6))
    assert module.temperature == pytest.approx(0.9)  # six steps are an epoch, and a period
    module.trainer.global_step = 3
    assert module.temperature == pytest.approx(0.1)


@pytest.mark.parametrize(
    "make", [partial(torch.optim.SGD, lr=0.1), partial(LARS, lr=4.8), partial(torch.optim.AdamW, lr=1e-3)]
)
def test_learnable_has_a_rate_of_its_own_and_no_weight_decay(make):
    module = small(SimCLR, temperature=Learnable(lr=1e-4))
    module.optimizer = partial(make, weight_decay=0.1)
    *others, own = module.build_optimizer().param_groups
    assert (own["lr"], own["weight_decay"], len(own["params"])) == (1e-4, 0, 1)
    assert own["params"][0] is module.tau.log_tau
    assert [(group["lr"], group["weight_decay"]) for group in others] == [(make.keywords["lr"], d) for d in (0.1, 0)]
    trained = [p for group in others for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in module.parameters()} - {id(module.tau.log_tau)}


def test_the_default_loss_is_what_it_was():
    embeddings, labels = torch.randn(2, 6, 5), torch.tensor([0, 1, 0, 2, -1, 1])
    simclr, supcon = small(SimCLR), small(SupCon)
    assert losses.contrast_images(embeddings, 0.1, simclr.loss) == losses.nt_xent(embeddings, 0.1)
    assert losses.contrast_classes(embeddings, labels, 0.1, supcon.loss) == losses.sup_con(embeddings, labels, 0.1)
    assert small(MoCoV2, **QUEUE).loss.func is losses.info_nce


def configured(*overrides):
    config = compose(["data=digits", *overrides])
    check(config)
    return build_module(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=mocov2", "model.loss=triplet"], "contrastive, hard_contrastive, decoupled .*'triplet'"),
        (["model=nnclr", "model.loss=nce"], "contrastive, hard_contrastive, decoupled .*'nce'"),
        (["model=instdisc", "model.loss=triplet"], "model.loss must be one of nce, contrastive .*'triplet'"),
        (["model.loss=cosine"], "contrastive, supcon_in, simple, .*, nce .*'cosine'"),
        (["model.loss=decoupled", "model.loss_options={alpha: 0.1}"], r"loss_options\.alpha: decoupled .* takes none"),
        (["model.loss=triplet", "model.loss_options={alpha: 0.1}"], r"loss_options\.alpha: .* takes margin, mining"),
        (["model.loss=hard_simple", "model.loss_options={alpha: 7}"], r"loss_options=\{'alpha': 7\}: .* got 7"),
        (["model.loss=triplet", "model.loss_options={mining: x}"], "all, hard, semi_hard, got 'x'"),
        (["model.loss=simple", "temperature=cosine"], r"model\.temperature: model\.loss=simple has none"),
        (["model.loss=margin", "temperature=learnable"], r"model\.temperature: model\.loss=margin has none"),
        (["temperature=learnable", "model.temperature.initial=7"], "initial=7"),
    ],
)
def test_a_wrong_combination_is_an_error_that_lists_the_right_ones(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configured(*overrides)


def test_options_reach_the_loss():
    module = configured("model.loss=hard_contrastive", "model.loss_options={alpha: 0.25}")
    assert module.loss.func is losses.hard_contrastive
    assert module.loss.keywords == {"alpha": 0.25}


def test_a_number_on_the_command_line_wins_over_the_group():
    assert configured("temperature=cosine", "model.temperature=0.3").temperature == 0.3


@pytest.mark.parametrize(
    ("overrides", "candidates"),
    [
        (["model=mocov2", "model.queue_size=1024"], [1, 513, 1025, 1025]),
        (["model=nnclr", "model.predictor_dim=32"], [256] * 4),
        (["model=supcon"], [511] * 4),
        (["model=instdisc", "model.loss=contrastive", "model.proximal=0"], [1079] * 4),
        pytest.param(
            ["model=simclrv2_memory", "model.memory_size=600"], [511, 1023, 1111, 1111], marks=pytest.mark.slow
        ),
        (["model.loss=decoupled"], None),
    ],
)
def test_the_information_bound_counts_the_candidates(overrides, candidates, tmp_path):
    small = ["model.projection_dim=16", "trainer.max_epochs=1", "~callbacks.figures", "~callbacks.linear_probe"]
    assert start(tmp_path / "run", [*overrides, *small]) == 0
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row["step"] > 0]
    if candidates is None:
        assert not any("train/information_bound" in row for row in rows)
        return
    bounds = [torch.tensor(n).log().item() - row["train/loss"] for n, row in zip(candidates, rows, strict=True)]
    assert [row["train/information_bound"] for row in rows] == pytest.approx(bounds, abs=1e-4)
