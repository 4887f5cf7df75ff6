"""The number of devices is not a hyper-parameter: W ranks do what one process does with the same global batch."""

import signal
from io import BytesIO

import pytest
import torch
from children import At, add_callback, kill_self, resume, start
from drive import CropEncoder, RowsEncoder, attach_trainer, random_batches, small, train, view_batch
from outcomes import assert_same, outcome
from ranks import run_ranks

from kindred.distributed import rank, world_size
from kindred.models.cpc import CPC
from kindred.models.distilled import Distilled
from kindred.models.finetuned import FineTuned
from kindred.models.instdisc import InstDisc
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.parts.neighbours import Oracle, Soft, TopK
from kindred.models.simclr import SimCLR
from kindred.models.simclrv2 import SimCLRv2
from kindred.models.supcon import SupCon

# Six images a step: a queue of 14 rows wraps around in the third step, one of 17 in the second where both views enter.
CASES = {
    "cpc": (CPC, {"encoder": RowsEncoder, "steps_ahead": 2}, {"views": 1}),
    "cpc, mixed, two views": (CPC, {"encoder": RowsEncoder, "steps_ahead": 1, "negatives": "mixed"}, {}),
    "cpc, sequence, conv": (
        CPC,
        {"encoder": RowsEncoder, "steps_ahead": 2, "negatives": "sequence", "context": "conv", "temperature": 0.3},
        {"views": 1},
    ),
    "finetuned": (FineTuned, {}, {"views": 1}),
    "finetuned, two views": (FineTuned, {}, {}),
    "distilled": (Distilled, {"temperature": 0.5}, {"views": 1}),
    "distilled, by labels too": (Distilled, {"temperature": 0.3, "alpha": 0.4}, {}),
    "instdisc": (InstDisc, {"noise_samples": 5}, {"views": 1}),
    "instdisc, full": (InstDisc, {"loss": "contrastive", "momentum": 0.9}, {"views": 1}),
    "instdisc, two views": (
        InstDisc,
        {"temperature": 0.5, "proximal": 0.0, "noise_samples": 30, "partition_momentum": 0.9},
        {},
    ),
    "simclr": (SimCLR, {}, {}),
    "simclr, sharp": (SimCLR, {"temperature": 0.01}, {}),
    "simclr, three views": (SimCLR, {"temperature": 5.0}, {"views": 3}),
    "mocov2": (MoCoV2, {"queue_size": 14, "momentum": 0.7}, {}),
    "mocov2, sharp": (MoCoV2, {"queue_size": 14, "momentum": 0.7, "temperature": 0.02}, {}),
    "mocov2, symmetric": (
        MoCoV2,
        {"queue_size": 17, "momentum": 0.5, "momentum_end": 1.0, "symmetric": True, "temperature": 0.07},
        {},
    ),
    "mocov2, key splits": (MoCoV2, {"queue_size": 14, "key_batch_splits": 6, "momentum": 0.7}, {}),
    "nnclr": (NNCLR, {"queue_size": 14}, {}),
    "nnclr, top k": (NNCLR, {"queue_size": 14, "neighbours": TopK(3)}, {}),
    "nnclr, soft neighbour": (NNCLR, {"queue_size": 14, "neighbours": Soft(4, 0.5)}, {}),
    "nnclr, oracle": (NNCLR, {"queue_size": 14, "neighbours": Oracle()}, {}),
    "nnclr, momentum": (NNCLR, {"queue_size": 14, "momentum": 0.7}, {}),
    "nnclr, multi-crop": (NNCLR, {"queue_size": 14, "encoder": CropEncoder}, {"crops": 2}),
    "simclr, multi-crop": (SimCLR, {"encoder": CropEncoder}, {"crops": 2}),
    "supcon, multi-crop": (SupCon, {"encoder": CropEncoder}, {"crops": 2}),
    "simclrv2": (SimCLRv2, {"memory_size": 17, "momentum": 0.7}, {}),
    "nnclr, soft": (NNCLR, {"queue_size": 17, "temperature": 1.0}, {}),
    "supcon": (SupCon, {}, {}),
    "supcon, sharp": (SupCon, {"temperature": 0.02}, {}),
    "supcon, three views": (SupCon, {"temperature": 0.5}, {"views": 3}),
}
STEPS = 6


def run_case(name, accumulate=1, first=0, last=None, state=None):
    method, settings, shape = CASES[name]
    module = small(method, **settings)
    if state is not None:
        module.load_state_dict(state)
    return train(module, random_batches(STEPS, **shape), accumulate, first, last)


def assert_close(actual, expected, tolerance=1e-10):
    """Losses, gradients and state, each within `tolerance` relative; what is logged too."""
    for key in ("losses", "gradients"):
        for step, (a, e) in enumerate(zip(actual[key], expected[key], strict=True)):
            assert (a - e).norm() <= tolerance * e.norm(), (key, step)
    for a, e in zip(actual["logs"], expected["logs"], strict=True):
        assert {key: float(value) for key, value in a.items()} == pytest.approx(
            {key: float(value) for key, value in e.items()}, rel=tolerance, abs=1e-14
        )
    assert actual["state"].keys() == expected["state"].keys()
    for key, e in expected["state"].items():
        assert (actual["state"][key] - e).double().norm() <= tolerance * e.double().norm(), key


def assert_trained(result):
    assert all(loss > 1e-3 for loss in result["losses"][1:])
    assert all(gradient.norm() > 1e-3 for gradient in result["gradients"][1:])


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_queues_on_several_ranks_equal_those_on_one(name, world_size):
    expected = run_case(name)
    assert_trained(expected)
    results = run_ranks(run_case, world_size, name)
    for result in results:
        assert_close(result, expected)
        # Queue and support set are not just close: every rank holds the very same rows.
        for key in result["state"]:
            assert torch.equal(result["state"][key], results[0]["state"][key]), key


@pytest.mark.parametrize("name", ["cpc", "distilled", "instdisc", "simclr", "mocov2, symmetric", "nnclr", "supcon"])
def test_accumulated_gradients_equal_those_of_the_same_micro_batches_on_one_process(name):
    expected = run_case(name, accumulate=2)
    assert len(expected["gradients"]) == STEPS / 2
    assert_trained(expected)
    for result in run_ranks(run_case, 2, name, 2):
        assert_close(result, expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_supcon_finds_kin_on_other_ranks(world_size):
    # One view, and no class twice on a rank: all kin are on other ranks. The unlabelled image has none, nor has class 2.
    batches = [(random_batches(1, views=1)[0][0], torch.tensor([0, 1, 2, 0, 1, -1]))]
    expected = train(small(SupCon), batches)
    assert expected["gradients"][0].norm() > 1e-3
    for result in run_ranks(lambda: train(small(SupCon), batches), world_size):
        assert_close(result, expected)


@pytest.mark.parametrize("name", ["instdisc", "mocov2, symmetric", "nnclr", "nnclr, momentum", "simclrv2"])
def test_a_checkpoint_goes_on_bit_for_bit_and_on_another_number_of_ranks(name):
    whole = run_case(name)
    file = BytesIO()
    torch.save(run_case(name, last=3)["state"], file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    rest = run_case(name, first=3, state=state)
    for key, value in whole["state"].items():
        assert torch.equal(rest["state"][key], value), key
    expected = {key: whole[key] if key == "state" else whole[key][3:] for key in whole}
    for result in run_ranks(run_case, 2, name, 1, 3, None, state):
        assert_close(result, expected)


def write_on_the_last_rank():
    """What a forward pass under DDP leaves of a value that only the last rank holds: in the queues, and elsewhere."""
    left = {}
    for method, queue, settings in ((MoCoV2, "queue", {"queue_size": 20}), (NNCLR, "support", {"queue_size": 20})):
        module = small(method, **settings)
        module.encoder.register_buffer("other", torch.zeros(1))
        attach_trainer(module, 1)
        module.forward = module.contrast
        wrapped = torch.nn.parallel.DistributedDataParallel(module)
        memory = getattr(module, queue)
        if rank() == world_size() - 1:
            memory.features[-1, 0], memory.labels[-1], module.encoder.other[0] = 7.0, 7, 7.0
        views, labels = random_batches(1)[0]
        wrapped(view_batch(views, labels))[0].backward()
        left[queue] = memory.features[-1, 0].item(), memory.labels[-1].item(), module.encoder.other.item()
    module = small(InstDisc)
    attach_trainer(module, 2, global_step=1)
    module.forward = module.contrast
    wrapped = torch.nn.parallel.DistributedDataParallel(module)
    if rank() == world_size() - 1:
        module.bank.features[-1, 0], module.bank.positions[-1], module.log_partition[()] = 7.0, 17, 7.0
    wrapped(view_batch(views, labels))[0].backward()
    left["bank"] = (
        module.bank.features[-1, 0].item() == 7,
        module.bank.positions[-1].item(),
        module.log_partition.item(),
    )
    return left


def test_ddp_does_not_send_the_queues_around():
    first, last = run_ranks(write_on_the_last_rank, 2)
    # DDP does overwrite other buffers with rank 0's.
    assert first == {"queue": (0.0, -1, 0.0), "support": (0.0, -1, 0.0), "bank": (False, 11, 0.0)}
    assert last == {"queue": (7.0, 7, 0.0), "support": (7.0, 7, 0.0), "bank": (True, 17, 7.0)}


@pytest.mark.parametrize(
    ("name", "queue", "rows_a_step"), [("mocov2, symmetric", "queue", 12), ("nnclr", "support", 6)]
)
def test_queues_and_how_much_was_written_are_in_the_state_dict(name, queue, rows_a_step):
    state = run_case(name)["state"]
    assert state[f"{queue}._extra_state"] == STEPS * rows_a_step
    torch.testing.assert_close(
        state[f"{queue}.features"].norm(dim=1), torch.ones(len(state[f"{queue}.features"])).double()
    )
    assert f"{queue}.labels" in state


# Whole runs

METHOD_OVERRIDES = {
    # 256 images a step: the queues are partly filled in the checkpoint of step 2 and wrap around after the resume.
    "mocov2": ["model.queue_size=1500", "model.momentum_end=1.0", "model.symmetric=true"],
    "nnclr": ["model.queue_size=1100", "model.predictor_dim=32"],
    "supcon": [],
    "instdisc": ["model.noise_samples=100"],
}


@pytest.mark.parametrize(
    "name",
    [
        "mocov2",
        pytest.param("nnclr", marks=pytest.mark.slow),
        "supcon",
        pytest.param("instdisc", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_in_mid_epoch_and_resumed_ends_as_if_never_stopped(name, tmp_path):
    overrides = [f"model={name}", "model.projection_dim=16", "trainer.max_epochs=2", "~callbacks.figures"]
    overrides += METHOD_OVERRIDES[name]
    assert start(tmp_path / "whole", overrides) == 0
    run = tmp_path / "run"
    assert start(run, overrides, prepare=lambda: add_callback(At(3, kill_self))) == -signal.SIGKILL
    assert resume(run) == 0
    ours, theirs = outcome(run), outcome(tmp_path / "whole")
    assert repr(ours.pop("rows")) == repr(
        theirs.pop("rows")
    )  # before there are neighbours nn_match is NaN, equal to none
    assert_same(ours, theirs)
