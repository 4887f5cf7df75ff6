"""MoCo v2 against its definition in float64, lightly's loss, and a loop over the groups of its batch norm."""

import math
from copy import deepcopy
from types import SimpleNamespace

import lightning
import pytest
import torch
from drive import Encoder, attach_trainer, random_batches, small, train, view_batch
from lightly.loss import NTXentLoss
from ranks import run_ranks
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from kindred.data.loading import ViewBatch
from kindred.data.order import permutation
from kindred.distributed import rank, world_size
from kindred.models.mocov2 import MoCoV2
from kindred.models.nnclr import NNCLR
from kindred.models.parts import key_splits
from kindred.models.parts.key_splits import encode_in_splits
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon
from kindred.optimisers.parameter_groups import parameter_groups


def query_parameters(module):
    return [*module.encoder.parameters(), *module.projector.parameters()]


# The key encoder


def test_the_key_encoder_starts_as_a_copy_of_encoder_and_head():
    module = small(MoCoV2, encoder=BatchNormEncoder)
    query = nn.Sequential(module.encoder, module.projector).state_dict()
    key = module.key_encoder.state_dict()
    assert query.keys() == key.keys()
    for name in query:
        assert torch.equal(query[name], key[name])
        assert query[name].data_ptr() != key[name].data_ptr()


def test_no_gradient_and_no_optimiser_reaches_the_key_encoder():
    module = small(MoCoV2, symmetric=True, queue_size=20, momentum=1.0)
    before = deepcopy(module.key_encoder.state_dict())
    result = train(module, random_batches(3))
    assert all(p.grad is None and not p.requires_grad for p in module.key_encoder.parameters())
    # With m = 1 nothing else moves it either, while the query encoder does.
    assert all(torch.equal(value, before[name]) for name, value in module.key_encoder.state_dict().items())
    assert sum(p.numel() for p in query_parameters(module)) == len(result["gradients"][-1])
    assert result["gradients"][-1].norm() > 0


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("end", [None, 1.0])
def test_the_key_encoder_moves_by_m_once_per_optimiser_step(end, accumulate):
    # With the query encoder held still the distance shrinks by the product of all m.
    steps, start = 5, 0.9
    module = small(MoCoV2, momentum=start, momentum_end=end)
    keys = list(module.key_encoder.parameters())
    with torch.no_grad():
        for parameter in query_parameters(module):
            parameter.add_(torch.randn_like(parameter))
    distances = [k - q for k, q in zip(keys, query_parameters(module), strict=True)]
    trainer = attach_trainer(module, steps * accumulate, accumulate)
    for batch in range(steps * accumulate):
        module.on_train_batch_start(None, batch)
        trainer.global_step += (batch + 1) % accumulate == 0
    shrunk = start**steps
    if end is not None:  # BYOL's schedule: from `start` at the first step to `end` at the last
        cosine = [(math.cos(math.pi * t / (steps - 1)) + 1) / 2 for t in range(steps)]
        shrunk = math.prod(end - (end - start) * c for c in cosine)
    for key, query, distance in zip(keys, query_parameters(module), distances, strict=True):
        torch.testing.assert_close(key, query + shrunk * distance, rtol=1e-10, atol=1e-12)


class WatchKeys(lightning.Callback):
    """Counts the batches in which the key encoder moved, and checks by how much."""

    def __init__(self):
        self.moved = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):  # callbacks come before the module
        self.before = [p.detach().clone() for p in module.key_encoder.parameters()]
        self.query = [p.detach().clone() for p in query_parameters(module)]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        after = list(module.key_encoder.parameters())
        expected = [0.75 * k + 0.25 * q for k, q in zip(self.before, self.query, strict=True)]
        same = all(torch.equal(a, b) for a, b in zip(after, self.before, strict=True))
        if not same:
            torch.testing.assert_close(after, [nn.Parameter(e, requires_grad=False) for e in expected])
        self.moved.append(not same)


class Batches(lightning.LightningDataModule):
    def train_dataloader(self):
        batches = [ViewBatch(tuple(views), labels, labels) for views, labels in random_batches(5)]
        return torch.utils.data.DataLoader(batches, batch_size=None)


def test_a_real_trainer_moves_the_keys_before_each_step_and_fills_the_queue_in_each_batch(tmp_path):
    watch, module = WatchKeys(), small(MoCoV2, momentum=0.75, queue_size=1000)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        callbacks=[watch],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches())
    # Five batches are three steps, the last of a single batch. The first finds both encoders equal.
    assert trainer.global_step == module.planned_steps == 6
    assert watch.moved == [False, False, True, False, True, True, False, True, False, True]
    assert module.queue.written == 10 * 6


# The loss


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_negatives_are_the_keys_of_earlier_steps_and_of_no_other(symmetric):
    # The definition (He et al., eq. 1) with a list for a queue: it would differ if keys entered before the loss used them.
    batches, size, tau, m = random_batches(5), 17, 0.2, 0.6
    module = small(MoCoV2, queue_size=size, symmetric=symmetric, temperature=tau, momentum=m)
    query = nn.Sequential(deepcopy(module.encoder), deepcopy(module.projector))
    key, queue = deepcopy(query), []
    optimizer = torch.optim.SGD(parameter_groups(query, 1e-3), lr=0.1)
    result = train(module, batches)
    for step, (views, _) in enumerate(batches):
        with torch.no_grad():
            for k, q in zip(key.parameters(), query.parameters(), strict=True):
                k.copy_(m * k + (1 - m) * q)
        losses, entering = [], []
        for asked, answering in ((0, 1), (1, 0)) if symmetric else ((0, 1),):
            q, k = normalize(query(views[asked]), dim=1), normalize(key(views[answering]), dim=1).detach()
            logits = torch.cat([(q * k).sum(1, keepdim=True), *[(q @ n)[:, None] for n in queue]], dim=1) / tau
            losses.append(cross_entropy(logits, torch.zeros(6, dtype=torch.long)))
            entering.extend(k)
        loss = sum(losses) / len(losses)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(query.parameters()))])
        torch.testing.assert_close(result["losses"][step], loss.detach(), rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(result["gradients"][step], gradient, rtol=1e-8, atol=1e-12)
        queue = [*queue, *entering][-size:]
        offset = 0
        for parameter in query.parameters():
            parameter.grad = gradient[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        optimizer.step()
    assert len(queue) == size
    fills = [log["queue_fill"] for log in result["logs"]]
    assert fills == [min(1, step * (12 if symmetric else 6) / size) for step in range(5)]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_against_lightly_with_its_memory_bank(symmetric):
    module = small(MoCoV2, queue_size=18, temperature=0.1, symmetric=symmetric)
    with torch.no_grad():  # a key encoder of its own
        for parameter in module.key_encoder.parameters():
            parameter.mul_(1.5).add_(0.1)
    bank = NTXentLoss(temperature=0.1, memory_bank_size=(18, 5))
    module.queue.enqueue(torch.randn(18, 5, dtype=torch.float64))
    views, labels = random_batches(1)[0]
    theirs = []
    for asked, answering in ((0, 1), (1, 0)) if symmetric else ((0, 1),):
        bank.memory_bank.bank = module.queue.features.clone()  # theirs enters the keys of the first half at once
        query = module.projector(module.encoder(views[asked]))
        theirs.append(bank(query, module.key_encoder(views[answering])))
    theirs = sum(theirs) / len(theirs)
    ours, _ = module.contrast(view_batch(views, labels))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, e in zip(*(torch.autograd.grad(loss, query_parameters(module)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-14)


def test_a_linear_head_as_in_v1():
    module = MoCoV2(Encoder(), torch.optim.SGD, hidden_dim=0, projection_dim=5, queue_size=12)
    assert isinstance(module.projector, nn.Linear)
    assert module.key_encoder(random_batches(1)[0][0][0].float()).shape == (6, 5)


# Keys normalised in groups


class BatchNormEncoder(nn.Sequential):
    num_features = 6

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(9, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 6), nn.BatchNorm1d(6)
        )


def batch_norm_encoder():
    torch.manual_seed(3)
    return BatchNormEncoder().double().train()


IMAGES = torch.randn(24, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def encode_share(splits, *key):
    share = len(IMAGES) // world_size()
    return encode_in_splits(batch_norm_encoder(), IMAGES[rank() * share : (rank() + 1) * share], splits, *key)


def test_splits_are_a_loop_over_groups_of_a_permutation():
    encoder, order = batch_norm_encoder(), torch.from_numpy(permutation(24, 5))
    expected = torch.empty(24, 6, dtype=torch.float64)
    for group in order.view(4, 6):
        expected[group] = encoder(IMAGES[group]).detach()
    torch.testing.assert_close(encode_share(4, 5), expected, rtol=1e-10, atol=1e-12)
    whole = batch_norm_encoder()(IMAGES).detach()
    assert (expected - whole).norm() > 0.1 * whole.norm()  # the groups have statistics of their own
    torch.testing.assert_close(encode_share(1, 5), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("ranks", "splits"), [(2, 4), (2, 2), (4, 4), (3, 6)])
def test_splits_are_the_same_groups_on_any_number_of_ranks(ranks, splits):
    expected = encode_share(splits, 1, 2)
    found = torch.cat(run_ranks(encode_share, ranks, splits, 1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_each_step_permutes_anew_and_both_views_alike(monkeypatch):
    keys = []

    def record(encoder, images, splits, *key):
        keys.append((splits, key))
        return encoder(images)

    monkeypatch.setattr("kindred.models.mocov2.encode_in_splits", record)
    train(small(MoCoV2, queue_size=50, symmetric=True, key_batch_splits=3), random_batches(3))
    assert [splits for splits, _ in keys] == [3] * 6
    first, second = keys[::2], keys[1::2]
    assert first == second
    assert len(set(first)) == 3


def bn_losses(splits):
    """Losses with batch statistics in the key encoder alone: the groups are all that could make the ranks matter."""
    module = small(MoCoV2, encoder=BatchNormEncoder, queue_size=30, key_batch_splits=splits, momentum=0.5)
    module.encoder.eval()
    return torch.stack(train(module, random_batches(4, images=12))["losses"])


def test_a_method_with_split_keys_is_the_same_on_any_number_of_ranks():
    expected = bn_losses(4)
    assert (expected - bn_losses(1)).norm() > 1e-4  # the groups do matter
    for ranks in (2, 4):
        for losses in run_ranks(bn_losses, ranks, 4):
            torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)


def local_layers():
    encoder = nn.SyncBatchNorm.convert_sync_batchnorm(batch_norm_encoder())
    key_splits.make_local(encoder)
    return [torch.distributed.get_world_size(m.process_group) for m in encoder if isinstance(m, nn.SyncBatchNorm)]


def test_synchronised_batch_norm_of_split_keys_sees_its_own_rank_alone():
    assert run_ranks(local_layers, 2) == [[1, 1], [1, 1]]


def test_fit_makes_split_keys_local_and_no_others(monkeypatch):
    seen = []
    monkeypatch.setattr("kindred.models.mocov2.make_local", seen.append)
    for splits in (1, 2):
        module = small(MoCoV2, key_batch_splits=splits)
        module.on_fit_start()
    assert seen == [module.key_encoder]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.5}, r"model\.momentum must be from 0 to 1, got 1\.5"),
        ({"momentum_end": -0.1}, r"model\.momentum_end must be from 0 to 1, got -0\.1"),
        ({"key_batch_splits": 0}, r"model\.key_batch_splits must be 1 or more, got 0"),
        ({"queue_size": 0}, r"queue.*size=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(MoCoV2, **settings)


def data(batch_size, views=2):
    return SimpleNamespace(batch_size=batch_size, views=range(views))


@pytest.mark.parametrize("method", [SimCLR, MoCoV2, NNCLR, SupCon])
def test_too_few_views_are_named_by_the_method(method):
    with pytest.raises(
        ValueError, match=rf"views\.views has 1 view\(s\) of each example: {method.__name__} .* at least 2"
    ):
        small(method).check(data(8, views=1), 1)


@pytest.mark.parametrize("method", [SimCLR, MoCoV2, NNCLR, SupCon])
def test_a_batch_of_one_is_named_before_it_trains_on_nothing(method):
    for batch_size in (0, 1):
        with pytest.raises(ValueError, match=rf"data\.batch_size is {batch_size}: .* give 2 or more$"):
            small(method).check(data(batch_size), 1)
    small(method).check(data(2), 1)


def test_check_refuses_what_does_not_fit_the_batch_or_the_ranks():
    small(MoCoV2, queue_size=64).check(data(64), 2)
    small(MoCoV2, queue_size=64, symmetric=True).check(data(32), 2)
    small(MoCoV2, queue_size=64, key_batch_splits=4).check(data(64), 2)
    with pytest.raises(ValueError, match=r"model\.queue_size is 64.*65 keys"):
        small(MoCoV2, queue_size=64).check(data(65), 1)
    with pytest.raises(ValueError, match=r"model\.queue_size is 64.*66 keys"):
        small(MoCoV2, queue_size=64, symmetric=True).check(data(33), 1)
    for splits, batch, ranks in ((3, 64, 1), (4, 64, 8), (6, 12, 4), (8, 8, 2)):
        with pytest.raises(ValueError, match=rf"model\.key_batch_splits is {splits}.*{batch}.*{ranks} device"):
            small(MoCoV2, queue_size=64, key_batch_splits=splits).check(data(batch), ranks)
