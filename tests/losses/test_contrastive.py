"""The losses against closed forms, explicit loops, other people's implementations, and themselves on several ranks."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningNTXent
from pytorch_metric_learning.losses import SupConLoss as MetricLearningSupCon
from ranks import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from kindred import distributed
from kindred.losses import group_contrast, info_nce, nt_xent, partition, sup_con

few = settings(max_examples=20, deadline=None)


def random(*shape, seed=0, dtype=torch.float64, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(requires_grad)


def gradients(loss, *inputs):
    """The loss's value, and its gradients with respect to the inputs."""
    value = loss(*inputs)
    return value.detach(), *torch.autograd.grad(value, inputs)


def assert_same(actual, expected, tolerance=1e-12, rounding=1e-300):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).norm() <= tolerance * e.norm() + rounding


def rounding_at(temperature):
    """What rounding leaves where terms cancel, as in the gradient of a loss that is nearly 0: 1e-16 / tau^2, a few times."""
    return 1e-15 / temperature**2


def loop_group_contrast(anchors, candidates, anchor_groups, candidate_groups, self_columns, temperature):
    """Khosla et al. 2020, eq. 2, term by term; the mean is over anchors with kin."""
    losses = []
    for i in range(len(anchors)):
        others = [j for j in range(len(candidates)) if self_columns is None or j != self_columns[i]]
        logits = {j: F.cosine_similarity(anchors[i], candidates[j], dim=0) / temperature for j in others}
        kin = [j for j in others if candidate_groups[j] == anchor_groups[i]]
        denominator = torch.logsumexp(torch.stack(list(logits.values())), dim=0)
        if kin:
            losses.append(-sum(logits[j] - denominator for j in kin) / len(kin))
    return sum(losses) / len(losses)


# Values and gradients


def test_nt_xent_closed_form():
    # Views coincide, the two images are orthogonal: positive 1, both negatives 0.
    embeddings = torch.eye(2, 8)[None].repeat(2, 1, 1)
    torch.testing.assert_close(nt_xent(embeddings, 0.5), torch.tensor(math.log(math.exp(2.0) + 2) - 2.0))


def test_info_nce_closed_form():
    # The key is the query; one negative is orthogonal, the other opposite.
    query = torch.tensor([[3.0, 0.0]])
    negatives = torch.tensor([[0.0, 5.0], [-2.0, 0.0]])
    expected = math.log(math.exp(4.0) + 1 + math.exp(-4.0)) - 4.0
    torch.testing.assert_close(info_nce(query, 2 * query, negatives, 0.25), torch.tensor(expected))


def test_the_mean_over_kin_is_outside_the_logarithm():
    # L_out and L_in of Khosla et al. differ as soon as an anchor has two unequal kin.
    anchor, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    groups = torch.tensor([0, 0, 1])
    denominator = math.e + 1 + math.exp(-1)
    l_out = -(math.log(math.e / denominator) + math.log(1 / denominator)) / 2
    l_in = -math.log((math.e + 1) / 2 / denominator)
    loss = group_contrast(anchor, candidates, groups[:1], groups, None, 1.0)
    assert loss.item() == pytest.approx(l_out, rel=1e-6)
    assert abs(l_out - l_in) > 0.1


@pytest.mark.parametrize("with_self", [True, False])
def test_group_contrast_against_loops(with_self):
    candidates = random(9, 5)
    candidate_groups = torch.tensor(
        [3, -2, 3, 0, 7, 7, 3, 0, 5]
    )  # -2 and 5 have no kin when they are themselves anchors
    if with_self:
        columns = torch.tensor([8, 0, 4, 1, 2])
        anchors, anchor_groups = candidates[columns].detach().requires_grad_(), candidate_groups[columns]
    else:
        columns, anchors, anchor_groups = None, random(5, 5, seed=1), torch.tensor([7, 3, -9, 11, -2])  # -9, 11: no kin

    def arguments(a, c):
        return a, c, anchor_groups, candidate_groups, columns, 0.2

    expected = gradients(lambda a, c: loop_group_contrast(*arguments(a, c)), anchors, candidates)
    assert_same(gradients(lambda a, c: group_contrast(*arguments(a, c)), anchors, candidates), expected)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_nt_xent_and_sup_con_against_loops(views):
    embeddings, labels = random(views, 6, 4), torch.tensor([0, 1, 0, -1, 2, -1])
    columns, image_groups = torch.arange(views * 6), torch.arange(6).repeat(views)
    label_groups = torch.tensor([0, 1, 0, 10, 2, 11]).repeat(views)  # unlabelled: kin of their own views only

    def loop(groups, z):
        return loop_group_contrast(z.flatten(0, 1), z.flatten(0, 1), groups, groups, columns, 0.3)

    assert_same(
        gradients(lambda z: nt_xent(z, 0.3), embeddings), gradients(lambda z: loop(image_groups, z), embeddings)
    )
    assert_same(
        gradients(lambda z: sup_con(z, labels, 0.3), embeddings), gradients(lambda z: loop(label_groups, z), embeddings)
    )


def test_info_nce_against_cross_entropy():
    inputs = random(4, 5), random(4, 5, seed=1), random(7, 5, seed=2)

    def reference(queries, keys, negatives):
        queries, keys, negatives = (F.normalize(x, dim=1) for x in (queries, keys, negatives))
        logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ negatives.T], dim=1) / 0.07
        return F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))

    assert_same(gradients(lambda *x: info_nce(*x, 0.07), *inputs), gradients(reference, *inputs))


def test_info_nce_without_negatives_is_zero():
    queries, keys = random(4, 5), random(4, 5, seed=1)
    assert_same(
        gradients(lambda q, k: info_nce(q, k, torch.empty(0, 5).double(), 0.1), queries, keys),
        (torch.zeros(()), torch.zeros(4, 5), torch.zeros(4, 5)),
    )


def test_nt_xent_against_lightly():
    embeddings = random(2, 16, 8)
    theirs = gradients(lambda z: NTXentLoss(temperature=0.1)(z[0], z[1]), embeddings)
    assert_same(gradients(lambda z: nt_xent(z, 0.1), embeddings), theirs)


def test_info_nce_against_lightly_with_its_memory_bank():
    bank = NTXentLoss(temperature=0.2, memory_bank_size=(32, 8))
    queries, keys = random(6, 8, dtype=torch.float32), random(6, 8, seed=1, dtype=torch.float32, requires_grad=False)
    bank(queries, keys)  # makes the bank, at random
    negatives = bank.memory_bank.bank.clone()
    negatives = negatives if negatives.shape == (32, 8) else negatives.T
    theirs = gradients(lambda q: bank(q, keys), queries)
    assert_same(gradients(lambda q: info_nce(q, keys, negatives, 0.2), queries), theirs, tolerance=1e-5)


def test_sup_con_and_nt_xent_against_pytorch_metric_learning():
    embeddings, labels = random(3, 8, 6), torch.tensor([0, 0, 1, 2, 1, 2, 0, 3])
    theirs = gradients(lambda z: MetricLearningSupCon(0.1)(z.flatten(0, 1), labels.repeat(3)), embeddings)
    assert_same(gradients(lambda z: sup_con(z, labels, 0.1), embeddings), theirs, tolerance=1e-10)
    pairs = embeddings[:2].detach().requires_grad_()
    theirs = gradients(lambda z: MetricLearningNTXent(0.1)(z.flatten(0, 1), torch.arange(8).repeat(2)), pairs)
    assert_same(gradients(lambda z: nt_xent(z, 0.1), pairs), theirs, tolerance=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 12, 100])
def test_any_tile_gives_the_same(chunk_size):
    embeddings, labels = random(2, 6, 4), torch.tensor([0, 1, 0, 2, 2, -1])
    for loss in (lambda z, c: nt_xent(z, 0.1, c), lambda z, c: sup_con(z, labels, 0.1, c)):
        ours = gradients(partial(loss, c=chunk_size), embeddings)
        assert_same(ours, gradients(partial(loss, c=None), embeddings))


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 10.0])
@pytest.mark.parametrize("logits_per_tile", [1, 40, 2**20])
@pytest.mark.parametrize("order", ["falling", "rising", "as it comes"])
def test_a_queue_in_parts_of_any_size_gives_the_same(monkeypatch, logits_per_tile, order, temperature):
    monkeypatch.setitem(partition._TILE_LOGITS, "cpu", logits_per_tile)
    batch = 259 if logits_per_tile == 40 else 6  # two tiles of queries, the second of 3
    queries, keys, negatives = random(batch, 5, seed=1), random(batch, 5, seed=2), random(23, 5, requires_grad=False)
    if order != "as it comes":  # of the first query's similarities
        closeness = F.cosine_similarity(negatives, queries[:1].detach())
        negatives = negatives[closeness.argsort(descending=order == "falling")]

    def reference(queries, keys):
        q, k, n = (F.normalize(x, dim=1) for x in (queries, keys, negatives))
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ n.T], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))

    ours = gradients(lambda q, k: info_nce(q, k, negatives, temperature), queries, keys)
    assert_same(ours, gradients(reference, queries, keys), rounding=rounding_at(temperature))


def test_gradcheck_with_a_learnable_temperature():
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    embeddings, labels = random(2, 4, 3), torch.tensor([0, 1, 0, -1])
    anchors, negatives = random(3, 3, seed=1), random(5, 3, seed=2)
    assert torch.autograd.gradcheck(lambda z, t: nt_xent(z, t, 3), (embeddings, temperature))
    assert torch.autograd.gradcheck(lambda z, t: sup_con(z, labels, t, 3), (embeddings, temperature))
    assert torch.autograd.gradcheck(info_nce, (anchors, random(3, 3, seed=3), negatives, temperature))
    groups = torch.tensor([0, 1, 1, 2, 5])
    assert torch.autograd.gradcheck(
        lambda a, c, t: group_contrast(a, c, groups[:3], groups, None, t, 2), (anchors, negatives, temperature)
    )


def test_backward_may_run_twice_and_inputs_may_be_constants():
    embeddings = random(2, 4, 3)
    loss = nt_xent(embeddings, 0.1)
    first = torch.autograd.grad(loss, embeddings, retain_graph=True)
    assert_same(torch.autograd.grad(3 * loss, embeddings), [3 * first[0]])
    assert_same([nt_xent(embeddings.detach(), 0.1)], [loss])
    with torch.no_grad():
        assert_same([nt_xent(embeddings, 0.1)], [loss])


# Precision and stability


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_finite_and_right_at_any_temperature(temperature, dtype):
    different = random(2, 6, 8, dtype=torch.float64).detach().to(dtype)
    identical = torch.ones(2, 6, 8, dtype=dtype)
    opposite = torch.stack([identical[0], -identical[0]])  # the self-similarity would hide every other exponential
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    losses = {
        "nt_xent": lambda z: nt_xent(z, temperature),
        "sup_con": lambda z: sup_con(z, labels, temperature),
        "info_nce": lambda z: info_nce(z[0], z[1], z.flatten(0, 1), temperature),
    }
    for loss in losses.values():
        for embeddings in (different, identical, opposite):
            value, gradient = gradients(loss, embeddings.clone().requires_grad_())
            assert value.isfinite()
            assert gradient.isfinite().all()
            truth = loss(embeddings.double())
            # The largest logit is 1 / temperature: that times the precision is what single precision can do.
            precision = 1e-12 if dtype == torch.float64 else 1e-6
            assert abs(value.double() - truth) <= precision * max(1.0, 1 / temperature, truth.item())


def test_half_precision_and_autocast_do_not_change_the_loss():
    embeddings = random(2, 64, 32, dtype=torch.float32).detach().bfloat16()
    negatives, labels = random(100, 32, seed=1, dtype=torch.float32).detach().bfloat16(), torch.arange(64) % 5
    for loss in (
        lambda z, n: nt_xent(z, 0.05),
        lambda z, n: sup_con(z, labels, 0.05),
        lambda z, n: info_nce(z[0], z[1], n, 0.05),
    ):
        expected = loss(embeddings.float(), negatives.float())
        with torch.autocast("cpu", torch.bfloat16):
            for inputs in ((embeddings, negatives), (embeddings.float(), negatives.float())):
                value = loss(*inputs)
                assert value.dtype == torch.float32
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_anchors_without_kin_are_left_out():
    embeddings = random(1, 5, 4)  # one view: an unlabelled image has no kin
    labels = torch.tensor([0, 0, -1, 7, -1])
    value, gradient = gradients(lambda z: sup_con(z, labels, 0.1), embeddings)
    flat = embeddings[0].detach()
    expected = loop_group_contrast(flat[:2], flat, labels[:2], labels, torch.arange(2), 0.1)
    assert_same([value], [expected])
    assert gradient.isfinite().all()
    alone = gradients(lambda z: sup_con(z, torch.arange(5), 0.1), embeddings)
    assert_same(alone, (torch.zeros(()), torch.zeros(1, 5, 4)))


@pytest.mark.parametrize("temperature", [0, -0.5, math.nan])
def test_errors_name_the_value(temperature):
    embeddings, groups = random(2, 3, 4), torch.arange(3)
    for loss in (nt_xent, lambda z, t: sup_con(z, groups, t), lambda z, t: info_nce(z[0], z[1], z[0], t)):
        with pytest.raises(ValueError, match=rf"temperature.*{temperature}"):
            loss(embeddings, temperature)
    with pytest.raises(ValueError, match=r"chunk_size.*0"):
        nt_xent(embeddings, 0.1, 0)


class NoSynchronisation(TorchDispatchMode):
    """On a GPU each of these makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in {
            torch.ops.aten.item,
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten._unique2,
        }, func
        return func(*args, **(kwargs or {}))


def test_no_loss_waits_for_the_device():
    embeddings, labels = random(2, 6, 4), torch.tensor([0, 1, 0, -1, 2, -1])
    temperature = torch.tensor(0.1, requires_grad=True)
    with NoSynchronisation():
        loss = nt_xent(embeddings, temperature, 5) + sup_con(embeddings, labels, temperature, 5)
        (loss + info_nce(*embeddings, random(9, 4), temperature)).backward()
    with pytest.raises(AssertionError), NoSynchronisation():
        float(temperature.detach())


class LargestTensor(TorchDispatchMode):
    """`bytes` of the largest storage that an operation returned, but for views of `given`."""

    def __init__(self, *given):
        super().__init__()
        self.given, self.bytes = {x.untyped_storage().data_ptr() for x in given}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.given:
            self.bytes = max(self.bytes, out.untyped_storage().nbytes())
        return out


def test_memory_does_not_grow_with_the_square():
    embeddings = random(2, 512, 16, dtype=torch.float32)
    with LargestTensor() as largest:
        nt_xent(embeddings, 0.1, chunk_size=8).backward()
    assert largest.bytes <= 4 * 1024 * 16  # an [A, D] gradient; the tile of 8 x 1024 is smaller


def test_memory_does_not_grow_with_the_queue(monkeypatch):
    monkeypatch.setitem(partition._TILE_LOGITS, "cpu", 1024)
    queue = F.normalize(random(4096, 4, dtype=torch.float32, requires_grad=False), dim=1)
    queries, keys = random(8, 4, dtype=torch.float32), random(8, 4, seed=1, dtype=torch.float32)
    with LargestTensor(queue) as largest:
        info_nce(queries, keys, queue, 0.1, unit_negatives=True).backward()
    assert largest.bytes == 4 * 1024  # a tile


# Identities


@few
@given(st.integers(2, 4), st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.01, 0.1, 1.0]))
def test_sup_con_with_all_labels_different_is_nt_xent(views, batch, seed, temperature):
    embeddings = random(views, batch, 5, seed=seed)
    ours = gradients(lambda z: sup_con(z, torch.arange(batch) * 3 + 1, temperature), embeddings)
    assert_same(ours, gradients(lambda z: nt_xent(z, temperature), embeddings))


@few
@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.01, 0.1, 1.0]))
def test_nt_xent_of_two_views_is_info_nce_with_the_other_views_as_negatives(batch, seed, temperature):
    embeddings = random(2, batch, 5, seed=seed)

    def by_info_nce(z):
        losses = []
        for view in range(2):
            for image in range(batch):
                others = torch.arange(batch) != image
                query, key = z[view, image, None], z[1 - view, image, None]
                losses.append(info_nce(query, key, z[:, others].flatten(0, 1), temperature))
        return torch.stack(losses).mean()

    ours, theirs = gradients(lambda z: nt_xent(z, temperature), embeddings), gradients(by_info_nce, embeddings)
    assert_same(ours, theirs, rounding=rounding_at(temperature))


@few
@given(st.integers(2, 4), st.integers(2, 8), st.integers(0, 1000))
def test_order_of_the_batch_rotation_and_scale_change_nothing(views, batch, seed):
    embeddings, labels = random(views, batch, 5, seed=seed, requires_grad=False), torch.arange(batch) % 3
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(random(5, 5, seed=seed + 1, requires_grad=False)).Q
    changed = embeddings[:, order].flip(0) @ rotation * random(views, batch, 1, seed=seed + 2).detach().exp()
    assert_same([nt_xent(changed, 0.2)], [nt_xent(embeddings, 0.2)])
    assert_same([sup_con(changed, labels[order], 0.2)], [sup_con(embeddings, labels, 0.2)])


@few
@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 1000), st.sampled_from([1e-3, 0.1, 10.0]))
def test_mutual_information_bound(batch, negatives, seed, temperature):
    # I(query; key) >= log(N) - loss (van den Oord et al. 2018, section 2.3): no loss can claim more than log(N).
    loss = info_nce(random(batch, 5, seed=seed), random(batch, 5, seed=seed + 1), random(negatives, 5), temperature)
    assert math.log(1 + negatives) - loss.item() <= math.log(1 + negatives) + 1e-9


@few
@given(st.integers(1, 20), st.integers(0, 1000), st.sampled_from([0.05, 0.5]))
def test_negatives_are_pushed_as_hard_as_the_positive_is_pulled(negatives, seed, temperature):
    # Wang & Liu 2021, arXiv:2012.09740, eq. 5. Negatives one by one along the axes: a candidate's gradient, projected on
    # the query, is the gradient with respect to that candidate's similarity.
    query = F.normalize(random(1, negatives + 2, seed=seed), dim=1).detach()
    directions = torch.eye(negatives + 2, dtype=torch.float64)
    key = directions[:1].clone().requires_grad_()
    others = directions[1 : negatives + 1].clone().requires_grad_()
    _, key_gradient, others_gradient = gradients(lambda k, n: info_nce(query, k, n, temperature), key, others)

    def by_similarity(gradient, unit):  # undo the projection that normalising the candidate adds
        tangent = query - (query * unit).sum(1, keepdim=True) * unit
        return (gradient * tangent).sum(1) / tangent.square().sum(1)

    pull, push = by_similarity(key_gradient, key.detach()), by_similarity(others_gradient, others.detach())
    assert pull.item() < 0
    assert (push > 0).all()
    assert push.sum().item() == pytest.approx(-pull.item(), rel=1e-9)


# Several ranks

EMBEDDINGS = random(3, 6, 5, requires_grad=False)
LABELS = torch.tensor([0, 0, 3, -1, 4, -1])  # one view, two ranks: kin on rank 0 alone, and -1 is nobody's kin
NEGATIVES = random(7, 5, seed=1, requires_grad=False)
DISTRIBUTED_LOSSES = {
    "nt_xent": lambda z, labels, t: nt_xent(z, t),
    "nt_xent of two views": lambda z, labels, t: nt_xent(z[:2], t, 3),
    "sup_con": sup_con,
    "sup_con, uneven kin": lambda z, labels, t: sup_con(z[:1], labels, t),
    "info_nce": lambda z, labels, t: info_nce(z[0], z[1], NEGATIVES, t),
}


def losses_and_gradients():
    """What DDP would make of each loss: its mean over the ranks, and the mean gradients of weights and temperature."""
    weights = random(5, 5, seed=2, requires_grad=False)
    rank, batch = distributed.rank(), 6 // distributed.world_size()
    share = slice(rank * batch, (rank + 1) * batch)
    results = {}
    for name, loss in DISTRIBUTED_LOSSES.items():
        w, t = weights.clone().requires_grad_(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        values = gradients(lambda w, t, loss=loss: loss(EMBEDDINGS[:, share] @ w, LABELS[share], t), w, t)
        results[name] = [distributed.sum_over_ranks(v) / distributed.world_size() for v in values]
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_number_of_ranks_changes_neither_loss_nor_gradient(world_size):
    expected = losses_and_gradients()
    for actual in run_ranks(losses_and_gradients, world_size):
        for name, values in expected.items():
            assert_same(actual[name], values, tolerance=1e-12)
