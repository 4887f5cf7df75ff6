"""The family of losses against explicit loops, other people's implementations, and themselves on several ranks."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import DCLLoss
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import DoNothingReducer
from ranks import run_ranks
from test_contrastive import NoSynchronisation, assert_same, few, gradients, random, rounding_at

from kindred import distributed, losses
from kindred.losses import contrast_classes, contrast_images, group_contrast, image_contrast, info_nce

TAU = 0.2


def mean(values):
    return sum(values) / len(values)


def log_sum_exp(values):
    return torch.logsumexp(torch.stack(values), dim=0)


def nearest(similarities, alpha):
    """The round(alpha n) largest, at least one."""
    return sorted(similarities, reverse=True)[: max(1, round(alpha * len(similarities)))]


def squared(similarity):
    return 2 - 2 * similarity


def hinges(kin, negatives, margin=0.2):
    return [(squared(p) - squared(n) + margin).clamp(min=0) for p in kin for n in negatives]


def semi_hard(kin, negatives):
    found = [h for h in hinges(kin, negatives, 1.0) if 0 < h < 1]
    return mean(found) if found else torch.zeros(()).double()


# What each loss is for one anchor, from the similarities of its kin and of its negatives.
FAMILY = {
    "supcon_in": (
        losses.supcon_in,
        lambda kin, negatives: (
            -torch.log(mean([torch.exp(p / TAU) for p in kin]) / sum(torch.exp(s / TAU) for s in kin + negatives))
        ),
    ),
    "simple": (
        partial(losses.simple, weight=3.0),
        lambda kin, negatives: -mean(kin) + 3 / len(negatives) * sum(negatives),
    ),
    "hard_simple": (
        partial(losses.hard_simple, alpha=0.4, weight=2.0),
        lambda kin, negatives: -mean(kin) + 2 * mean(nearest(negatives, 0.4)),
    ),
    "hard_contrastive": (
        partial(losses.hard_contrastive, alpha=0.4),
        lambda kin, negatives: mean(
            [log_sum_exp([s / TAU for s in kin + nearest(negatives, 0.4)]) - p / TAU for p in kin]
        ),
    ),
    "decoupled": (
        losses.decoupled,
        lambda kin, negatives: mean([log_sum_exp([n / TAU for n in negatives]) - p / TAU for p in kin]),
    ),
    "margin": (
        partial(losses.margin, distance=1.3),
        lambda kin, negatives: (
            mean([squared(p) / 2 for p in kin])
            + mean([(1.3 - squared(n).sqrt()).clamp(min=0) ** 2 / 2 for n in negatives])
        ),
    ),
    "triplet, all": (
        partial(losses.triplet, mining="all"),
        lambda kin, negatives: mean(hinges(kin, negatives)),
    ),
    "triplet, hard": (losses.triplet, lambda kin, negatives: max(hinges(kin, negatives))),
    "triplet, semi-hard": (partial(losses.triplet, margin=1.0, mining="semi_hard"), semi_hard),
    "nce": (
        partial(losses.nce, log_partition=0.3),
        lambda kin, negatives: (
            -mean([F.logsigmoid(p / TAU - 0.3 - math.log(len(negatives))) for p in kin])
            - sum(torch.log(1 - torch.sigmoid(n / TAU - 0.3 - math.log(len(negatives)))) for n in negatives)
        ),
    ),
}
WITHOUT_TEMPERATURE = {"simple", "hard_simple", "margin", "triplet, all", "triplet, hard", "triplet, semi-hard"}
QUEUE = {
    "hard_info_nce": (
        partial(losses.hard_info_nce, alpha=0.4),
        lambda kin, negatives: log_sum_exp([s / TAU for s in kin + nearest(negatives, 0.4)]) - kin[0] / TAU,
    ),
    "decoupled_info_nce": (
        losses.decoupled_info_nce,
        lambda kin, negatives: log_sum_exp([n / TAU for n in negatives]) - kin[0] / TAU,
    ),
}


def loop(term, anchors, candidates, anchor_groups, candidate_groups, self_columns):
    """The mean of `term` over the anchors that have kin."""
    terms = []
    for i in range(len(anchors)):
        kin, negatives = [], []
        for j in range(len(candidates)):
            if self_columns is None or j != self_columns[i]:
                similarity = F.cosine_similarity(anchors[i], candidates[j], dim=0)
                (kin if anchor_groups[i] == candidate_groups[j] else negatives).append(similarity)
        if kin:
            terms.append(term(kin, negatives))
    return mean(terms)


# Values and gradients


@pytest.mark.parametrize("with_self", [True, False])
@pytest.mark.parametrize("name", FAMILY)
def test_against_loops(name, with_self):
    loss, term = FAMILY[name]
    candidates, candidate_groups = random(9, 5), torch.tensor([3, -2, 3, 0, 7, 7, 3, 0, 5])
    if with_self:
        columns = torch.tensor([8, 0, 4, 1, 2])  # 8 and 1 have no kin but themselves
        anchors, anchor_groups = candidates[columns].detach().requires_grad_(), candidate_groups[columns]
    else:
        columns, anchors, anchor_groups = None, random(5, 5, seed=1), torch.tensor([7, 3, -9, 3, -2])  # -9: no kin
    groups = anchor_groups, candidate_groups, columns
    expected = gradients(lambda a, c: loop(term, a, c, *groups), anchors, candidates)
    assert expected[1].norm() > 0.1
    assert_same(gradients(lambda a, c: loss(a, c, *groups, TAU), anchors, candidates), expected)


@pytest.mark.parametrize("name", QUEUE)
def test_queue_losses_against_loops(name):
    loss, term = QUEUE[name]
    inputs = random(4, 5), random(4, 5, seed=1), random(7, 5, seed=2)

    def reference(queries, keys, negatives):
        similarity = partial(F.cosine_similarity, dim=0)
        pairs = zip(queries, keys, strict=True)
        return mean([term([similarity(q, k)], [similarity(q, n) for n in negatives]) for q, k in pairs])

    assert_same(gradients(lambda *x: loss(*x, TAU), *inputs), gradients(reference, *inputs))


@pytest.mark.parametrize("loss", losses.BY_QUEUE.values(), ids=list(losses.BY_QUEUE))
def test_unit_negatives_are_taken_as_they_are(loss):
    generator = torch.Generator().manual_seed(0)
    queries, keys, negatives = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (3, 3, 7))
    rows = F.normalize(negatives, dim=1)
    expected = loss(queries, keys, negatives, TAU)
    torch.testing.assert_close(loss(queries, keys, rows, TAU, unit_negatives=True), expected)
    assert not torch.isclose(loss(queries, keys, 2 * rows, TAU, unit_negatives=True), expected)


def test_decoupled_against_lightly():
    embeddings = random(2, 16, 8)
    theirs = gradients(lambda z: DCLLoss(temperature=0.1)(z[0], z[1]), embeddings)
    assert_same(gradients(lambda z: contrast_images(z, 0.1, losses.decoupled), embeddings), theirs)


def metric_learning(loss, z, labels, miner=None):
    """The losses of pytorch-metric-learning on [V, B, D] with their indices: a dict of each part."""
    z, labels = z.flatten(0, 1), labels.repeat(len(z))
    return loss(z, labels, miner(z, labels) if miner else None)


def over_anchors(part, count):
    """The mean, over anchors, of the mean over an anchor's pairs or triplets; an anchor without any counts as 0."""
    anchors, values = part["indices"][0], part["losses"]
    sums = torch.zeros(count, dtype=values.dtype).index_add(0, anchors, values)
    return (sums / torch.bincount(anchors, minlength=count).clamp(min=1)).mean()


CLASSES = torch.tensor([0, 0, 1, 2, 1, 2, 0, 3])


def test_margin_against_pytorch_metric_learning():
    distance = LpDistance(power=1)

    def theirs(z):
        parts = metric_learning(ContrastiveLoss(0, 1.3, distance=distance, reducer=DoNothingReducer()), z, CLASSES)
        for part in parts.values():  # theirs is linear in the distance
            part["losses"] = part["losses"].square() / 2
        return over_anchors(parts["pos_loss"], 24) + over_anchors(parts["neg_loss"], 24)

    def ours(z):
        return contrast_classes(z, CLASSES, 1.0, partial(losses.margin, distance=1.3))

    embeddings = random(3, 8, 6)
    assert_same(gradients(ours, embeddings), gradients(theirs, embeddings), tolerance=1e-10)


@pytest.mark.parametrize(
    ("mining", "miner"),
    [
        ("all", None),
        ("hard", BatchHardMiner(distance=LpDistance(power=2))),
        ("semi_hard", TripletMarginMiner(0.2, "semihard", distance=LpDistance(power=2))),
    ],
)
def test_triplet_against_pytorch_metric_learning(mining, miner):
    loss = TripletMarginLoss(0.2, distance=LpDistance(power=2), reducer=DoNothingReducer())

    def theirs(z):
        return over_anchors(metric_learning(loss, z, CLASSES, miner)["loss"], 24)

    def ours(z):
        return contrast_classes(z, CLASSES, 1.0, partial(losses.triplet, mining=mining))

    embeddings = random(3, 8, 6)
    assert_same(gradients(ours, embeddings), gradients(theirs, embeddings), tolerance=1e-10)


def test_gradcheck_with_a_learnable_temperature():
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    candidates, groups = random(6, 3), torch.tensor([0, 1, 0, 2, 1, 3])
    for name, (loss, _) in FAMILY.items():
        if name not in WITHOUT_TEMPERATURE:
            assert torch.autograd.gradcheck(
                lambda c, t, loss=loss: loss(c, c, groups, groups, torch.arange(6), t), (candidates, temperature)
            )
    queries, keys = random(3, 3, seed=1), random(3, 3, seed=2)
    for loss, _ in QUEUE.values():
        assert torch.autograd.gradcheck(loss, (queries, keys, candidates, temperature))


# Identities


@few
@given(st.integers(2, 3), st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.01, 0.1, 1.0]))
def test_all_negatives_are_hard_at_alpha_1(views, batch, seed, temperature):
    z = random(views, batch, 5, seed=seed)
    hard = partial(losses.hard_contrastive, alpha=1.0)
    assert_same(
        gradients(lambda z: contrast_images(z, temperature, hard), z),
        gradients(lambda z: contrast_images(z, temperature), z),
        tolerance=1e-10,
        rounding=rounding_at(temperature),
    )
    assert_same(
        gradients(lambda z: contrast_images(z, 1.0, partial(losses.hard_simple, alpha=1.0)), z),
        gradients(lambda z: contrast_images(z, 1.0, losses.simple), z),
    )
    inputs = random(batch, 5, seed=seed), random(batch, 5, seed=seed + 1), random(7, 5, seed=seed + 2)
    assert_same(
        gradients(lambda *x: losses.hard_info_nce(*x, temperature, alpha=1.0), *inputs),
        gradients(lambda *x: info_nce(*x, temperature), *inputs),
        tolerance=1e-10,
        rounding=rounding_at(temperature),
    )


@few
@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.05, 0.5]))
def test_with_one_kin_each_l_in_is_l_out(batch, seed, temperature):
    z = random(2, batch, 5, seed=seed)
    assert_same(
        gradients(lambda z: contrast_images(z, temperature, losses.supcon_in), z),
        gradients(lambda z: contrast_images(z, temperature), z),
        tolerance=1e-10,
        rounding=rounding_at(temperature),
    )


@few
@given(st.integers(2, 8), st.integers(0, 1000), st.sampled_from([0.01, 0.1, 1.0]))
def test_l_in_is_at_most_l_out(batch, seed, temperature):
    # Jensen's inequality, Khosla et al. 2020, section 3.2.2.
    z, labels = random(2, batch, 5, seed=seed, requires_grad=False), torch.arange(batch) % 2
    l_out = contrast_classes(z, labels, temperature)
    assert contrast_classes(z, labels, temperature, losses.supcon_in) <= l_out + 1e-12


def test_the_choice_of_negatives_follows_the_quantile():
    # Similarities 0.9, 0.8, ..., 0.0 of ten negatives.
    cosines = torch.tensor([0.5, *(0.1 * k for k in range(10))], dtype=torch.float64)
    candidates = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    groups, anchor = torch.arange(11), torch.tensor([[1.0, 0.0]]).double()
    for alpha, count in ((0.01, 1), (0.1, 1), (0.3, 3), (0.52, 5), (1.0, 10)):
        loss = losses.hard_simple(anchor, candidates, groups[:1], groups, None, 1.0, alpha=alpha)
        hard = sorted(0.1 * k for k in range(10))[-count:]
        assert loss.item() == pytest.approx(mean(hard) - 0.5)
    doubled, groups = torch.cat([candidates, candidates[1:]]), torch.tensor([*range(11), *range(1, 11)])
    loss = losses.hard_simple(anchor, doubled, groups[:1], groups, None, 1.0, alpha=0.05)  # one of twenty, or its twin
    assert loss.item() == pytest.approx(0.9 - 0.5)


@pytest.mark.parametrize(("alpha", "count"), [(0.01, 1), (0.2, 4), (0.52, 10), (1.0, 20)])
def test_of_equal_negatives_as_many_are_hard_as_are_due(alpha, count):
    candidates = torch.tensor([[3.0, 4.0]] + 20 * [[0.0, 1.0]]).double() / 5
    groups, anchor = torch.arange(21), torch.tensor([[1.0, 0.0]]).double()
    expected = math.log(math.exp(0.6) + count) - 0.6  # all negatives have the similarity 0
    loss = losses.hard_contrastive(anchor, candidates, groups[:1], groups, None, 1.0, alpha=alpha)
    assert loss.item() == pytest.approx(expected)
    assert losses.hard_info_nce(anchor, candidates[:1], candidates[1:], 1.0, alpha=alpha).item() == pytest.approx(
        expected
    )


# Noise-contrastive estimation on a small discrete distribution


def test_the_gradient_of_nce_tends_to_that_of_maximum_likelihood():
    symbols, tau = random(4, 3, seed=3, requires_grad=False), 0.5
    data, noise = torch.tensor([4, 3, 2, 1]), torch.tensor([0.4, 0.2, 0.2, 0.2]).double()
    context = random(1, 3, seed=4)

    def scores(context):
        return F.normalize(context, dim=1) @ F.normalize(symbols, dim=1).T / tau + noise.log()

    # Ten observations of the context; maximum likelihood of p = p_n exp(s / tau) / Z.
    likelihood = torch.autograd.grad(F.cross_entropy(scores(context), data[None] / 10.0), context)[0]
    log_partition = scores(context).logsumexp(dim=1).detach()
    observed = torch.repeat_interleave(torch.arange(4), data)

    def error(k):
        # The noise in exact proportion, so that the sum over k samples is k times the expectation.
        samples = torch.repeat_interleave(torch.arange(4), (noise * k).round().long())
        candidates = symbols[torch.cat([observed, samples])]
        # A group for each observation and one for the noise; the other observations are taken away one at a time.
        total = 0
        for position in range(10):
            chosen = torch.cat([torch.tensor([position]), torch.arange(10, 10 + k)])
            groups = torch.tensor([0] + [1] * k)
            total = total + losses.nce(context, candidates[chosen], groups[:1], groups, None, tau, log_partition)
        gradient = torch.autograd.grad(total / 10, context)[0]
        return ((gradient - likelihood).norm() / likelihood.norm()).item()

    errors = [error(k) for k in (5, 50, 500, 5000)]
    assert errors[0] > 0.05
    assert errors[-1] < 1e-3
    for coarse, fine in pairwise(errors[1:]):
        assert coarse / fine == pytest.approx(10, rel=0.1)  # the error falls as 1 / k


# Precision and stability


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_finite_and_right_at_any_temperature(temperature, dtype):
    different = random(2, 6, 8).detach().to(dtype)
    identical = torch.ones(2, 6, 8, dtype=dtype)
    opposite = torch.stack([identical[0], -identical[0]])
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    cases = {
        name: partial(lambda z, loss: contrast_classes(z, labels, temperature, loss), loss=loss)
        for name, (loss, _) in FAMILY.items()
        if name != "triplet, semi-hard"  # which triplets those are depends on the last bit where similarities tie
    }
    cases |= {
        name: partial(lambda z, loss: loss(z[0], z[1], z.flatten(0, 1), temperature), loss=loss)
        for name, (loss, _) in QUEUE.items()
    }
    precision = 1e-12 if dtype == torch.float64 else 3e-6
    for name, loss in cases.items():
        for embeddings in (different, identical, opposite):
            value, gradient = gradients(loss, embeddings.clone().requires_grad_())
            assert value.isfinite()
            assert gradient.isfinite().all()
            truth = loss(embeddings.double())
            # The distance of two vectors that are the same is only as exact as the root of the precision.
            distance = precision**0.5 if name == "margin" else 0
            assert abs(value.double() - truth) <= distance + precision * max(1.0, 1 / temperature, truth.abs().item())


def test_half_precision_and_autocast_do_not_change_the_loss():
    embeddings = random(2, 32, 16).detach().bfloat16()
    labels = torch.arange(32) % 5
    cases = [lambda z, loss=loss: contrast_classes(z, labels, 0.1, loss) for loss, _ in FAMILY.values()]
    cases += [lambda z, loss=loss: loss(z[0], z[1], z[0], 0.1) for loss, _ in QUEUE.values()]
    for loss in cases:
        expected = loss(embeddings.float())
        with torch.autocast("cpu", torch.bfloat16):
            for z in (embeddings, embeddings.float()):
                value = loss(z)
                assert value.dtype == torch.float32
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FAMILY)
def test_anchors_without_kin_or_without_negatives(name):
    loss, _ = FAMILY[name]
    z = random(1, 5, 4)
    alone = gradients(lambda z: contrast_classes(z, torch.arange(5), TAU, loss), z)  # nobody has kin
    assert_same(alone, (torch.zeros(()), torch.zeros(1, 5, 4)))
    for value in gradients(lambda z: contrast_classes(z, torch.zeros(5, dtype=torch.long), TAU, loss), z):
        assert value.isfinite().all()  # nobody has negatives


@pytest.mark.parametrize("name", QUEUE)
def test_an_empty_queue_gives_zero(name):
    queries, keys = random(4, 5), random(4, 5, seed=1)
    value, *slopes = gradients(lambda q, k: QUEUE[name][0](q, k, torch.empty(0, 5).double(), TAU), queries, keys)
    assert value == 0
    assert all(slope.norm() == 0 for slope in slopes)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("name", losses.BY_GROUP)
def test_an_empty_batch_gives_zero(name, rows):
    loss, others = losses.BY_GROUP[name], random(rows, 4, seed=1)
    none, groups = torch.zeros(0, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
    nothing, empty = random(2, 0, 4), random(0, 4)
    values = {
        "images": (contrast_images(nothing, TAU, loss), nothing),
        "classes": (contrast_classes(nothing, none, TAU, loss), nothing),
        "neighbours": (image_contrast(empty, empty.detach(), TAU, loss), empty),
        "no anchors": (loss(empty, others, none, groups, None, TAU), others),
        "no candidates": (loss(others, empty, groups, none, None, TAU), others),
    }
    for case, (value, inputs) in values.items():
        assert value == 0, case
        (slope,) = torch.autograd.grad(value, inputs, materialize_grads=True)
        assert slope.norm() == 0, case


@pytest.mark.parametrize("negatives", [0, 3])
@pytest.mark.parametrize("name", losses.BY_QUEUE)
def test_a_queue_and_no_queries_give_zero(name, negatives):
    queries, keys, rows = random(0, 4), random(0, 4, seed=1), random(negatives, 4, seed=2)
    value, *slopes = gradients(lambda q, k: losses.BY_QUEUE[name](q, k, rows, TAU), queries, keys)
    assert value == 0
    assert all(slope.shape == (0, 4) for slope in slopes)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (partial(losses.hard_contrastive, alpha=0), "alpha.*0"),
        (partial(losses.hard_simple, alpha=1.5), r"alpha.*1\.5"),
        (partial(losses.margin, distance=-1), "distance.*-1"),
        (partial(losses.triplet, margin=0), "margin.*0"),
        (partial(losses.triplet, mining="easy"), "mining.*all, hard, semi_hard.*'easy'"),
        (losses.decoupled, "temperature.*-3"),
        (losses.supcon_in, "temperature.*-3"),
        (losses.nce, "temperature.*-3"),
    ],
)
def test_errors_name_the_value(loss, message):
    with pytest.raises(ValueError, match=message):
        contrast_images(random(2, 3, 4), -3 if "temperature" in message else 0.1, loss)


def test_no_loss_waits_for_the_device():
    embeddings, labels = random(2, 6, 4), torch.tensor([0, 1, 0, -1, 2, -1])
    temperature = torch.tensor(0.1, requires_grad=True)
    with NoSynchronisation():
        total = sum(contrast_classes(embeddings, labels, temperature, loss) for loss, _ in FAMILY.values())
        total = total + sum(loss(*embeddings, random(9, 4), temperature) for loss, _ in QUEUE.values())
        total.backward()


# Several ranks

EMBEDDINGS = random(3, 6, 5, requires_grad=False)
LABELS = torch.tensor([0, 0, 3, -1, 4, -1])
RANKED = {"group_contrast": (group_contrast, None), **FAMILY}


def losses_and_gradients():
    """What DDP would make of each loss over images, over classes, and of neighbours against predictions."""
    weights = random(5, 5, seed=2, requires_grad=False)
    rank, batch = distributed.rank(), 6 // distributed.world_size()
    share = slice(rank * batch, (rank + 1) * batch)
    forms = {
        "images": lambda z, loss, t: contrast_images(z, t, loss),
        "classes": lambda z, loss, t: contrast_classes(z[:1], LABELS[share], t, loss),
        "neighbours": lambda z, loss, t: image_contrast(z[0], z[1], t, loss),
    }
    results = {}
    for name, (loss, _) in RANKED.items():
        for form, contrast in forms.items():
            w, t = weights.clone().requires_grad_(), torch.tensor(TAU, dtype=torch.float64, requires_grad=True)
            value = contrast(EMBEDDINGS[:, share] @ w, loss, t)
            slopes = torch.autograd.grad(value, (w, t), allow_unused=name in WITHOUT_TEMPERATURE)
            values = [v for v in (value.detach(), *slopes) if v is not None]
            results[name, form] = [distributed.sum_over_ranks(v) / distributed.world_size() for v in values]
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_number_of_ranks_changes_neither_loss_nor_gradient(world_size):
    expected = losses_and_gradients()
    assert all(values[1].norm() > 1e-3 for values in expected.values())
    for actual in run_ranks(losses_and_gradients, world_size):
        for name, values in expected.items():
            assert_same(actual[name], values, tolerance=1e-12)
