"""NNCLR's neighbours against sorted lists, what they make of its loss, and its momentum encoder."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from drive import attach_trainer, random_batches, small, train, view_batch
from torch.nn.functional import normalize

from kindred import memory
from kindred.config import ConfigError, check, compose
from kindred.losses import image_contrast
from kindred.memory import FeatureQueue
from kindred.models.nnclr import NNCLR, matching_share
from kindred.models.parts.neighbours import Nearest, Oracle, Soft, TopK
from kindred.runs.run import build_module

LABELS = torch.tensor([0, 2, 1, -1, 4, 1])


@pytest.fixture(params=[3, 2048])
def support(request, monkeypatch):
    """A support set of classes 0, 1, 2, 3, 0, ... that is searched in tiles of 3 rows, and at once."""
    monkeypatch.setattr(memory, "CPU_TILE", request.param)
    queue = FeatureQueue(20, 5).double()
    queue.enqueue(torch.randn(11, 5, generator=torch.Generator().manual_seed(4)).double(), torch.arange(11) % 4)
    return queue


ANCHORS = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_similarity(support, anchor):
    """(similarity, row, label), the nearest first."""
    rows = zip(support.rows(), support.labels.tolist(), strict=False)
    return sorted(((float(normalize(anchor, dim=0) @ row), row, label) for row, label in rows), key=lambda r: -r[0])


@pytest.mark.parametrize("k", [1, 4, 50])
def test_top_k_are_the_first_of_a_sorted_list(support, k):
    vectors, labels = TopK(k)(support, ANCHORS, LABELS)
    assert vectors.shape == (min(k, 11), 6, 5)
    for place, anchor in enumerate(ANCHORS):
        expected = by_similarity(support, anchor)[:k]
        assert torch.equal(vectors[:, place], torch.stack([row for _, row, _ in expected]))
        assert labels[:, place].tolist() == [label for *_, label in expected]


@pytest.mark.parametrize(("k", "tau"), [(1, 0.1), (4, 0.5), (50, 0.05)])
def test_the_soft_neighbour_is_a_mean_weighted_by_a_softmax(support, k, tau):
    (vectors,), (labels,) = Soft(k, tau)(support, ANCHORS, LABELS)
    for place, anchor in enumerate(ANCHORS):
        expected = by_similarity(support, anchor)[:k]
        weights = torch.tensor([s / tau for s, *_ in expected]).double().softmax(dim=0)
        mean = sum(weight * row for weight, (_, row, _) in zip(weights, expected, strict=True))
        torch.testing.assert_close(vectors[place], mean, rtol=1e-6, atol=1e-7)
        assert labels[place] == expected[0][2]


def test_the_oracles_neighbour_is_the_nearest_of_the_class(support):
    (vectors,), (labels,) = Oracle()(support, ANCHORS, LABELS)
    for place, anchor in enumerate(ANCHORS):
        of_class = [row for _, row, label in by_similarity(support, anchor) if LABELS[place] in (-1, label)]
        # Class 4 is not in the support set: the image is its own neighbour.
        assert torch.equal(vectors[place], of_class[0] if of_class else anchor)
    assert labels[LABELS >= 0].tolist() == LABELS[LABELS >= 0].tolist()
    assert matching_share(labels[None], LABELS) == 1


def test_the_nearest_alone_gives_the_loss_of_today_to_the_bit():
    views, labels = random_batches(1)[0]
    losses = []
    for neighbours in (None, Nearest(), TopK(1)):
        module = small(NNCLR, queue_size=20, neighbours=neighbours)
        module.support.enqueue(torch.randn(20, 5, generator=torch.Generator().manual_seed(4)).double())
        losses.append(module.contrast(view_batch(views, labels))[0])
    first, second = module.projector(module.encoder(views.flatten(0, 1))).chunk(2)
    p1, p2 = module.predictor(torch.cat([first, second])).chunk(2)
    n1, n2 = (module.support.features[module.support.nearest(z)] for z in (first, second))
    expected = (image_contrast(n1, p2, 0.1) + image_contrast(n2, p1, 0.1)) / 2
    assert all(torch.equal(loss, expected) for loss in losses)


def test_the_loss_of_the_k_nearest_is_the_mean_of_k_losses():
    module = small(NNCLR, queue_size=20, neighbours=TopK(3))
    module.support.enqueue(torch.randn(20, 5, generator=torch.Generator().manual_seed(4)).double())
    views, labels = random_batches(1)[0]
    ours, _ = module.contrast(view_batch(views, labels))
    found = TopK(3)(module.support, module.projector(module.encoder(views.flatten(0, 1))), labels.repeat(2))[0]
    terms = []
    for vectors in found:
        module.choose_neighbours = lambda *_, vectors=vectors: (vectors[None], labels.repeat(2)[None])
        terms.append(module.contrast(view_batch(views, labels))[0])
    torch.testing.assert_close(ours, torch.stack(terms).mean(), rtol=1e-12, atol=0)
    assert len({round(float(term.detach()), 9) for term in terms}) == 3


def test_with_the_oracle_all_neighbours_match():
    logs = train(small(NNCLR, queue_size=16, neighbours=Oracle()), random_batches(4))["logs"]
    assert [log["nn_match"] for log in logs] == [0, 1, 1, 1]  # at first there are none
    assert any(log["nn_match"] < 1 for log in train(small(NNCLR, queue_size=16), random_batches(4))["logs"][1:])


def test_the_oracle_refuses_images_without_labels():
    module = small(NNCLR, neighbours=Oracle())
    source = SimpleNamespace(name="holidays")
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(train_is_labelled=False, source=source))
    with pytest.raises(
        ConfigError, match=r"model\.neighbours: Oracle goes by labels, and the train .* holidays have none"
    ):
        module.setup("fit")


def test_the_momentum_encoder_gives_support_set_and_what_neighbours_are_sought_of():
    module = small(NNCLR, queue_size=20, momentum=1.0)
    first = deepcopy(module.key_encoder)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), module.encoder.parameters(), strict=False))
    batches = random_batches(3)
    train(module, batches)
    for step, (views, _) in enumerate(batches):  # with m = 1 it stays what the network was
        keys = normalize(first(views[0]), dim=1)
        torch.testing.assert_close(module.support.features[6 * step : 6 * step + 6], keys, rtol=1e-12, atol=1e-14)
    sought = []
    attach_trainer(module, 1)
    module.choose_neighbours = lambda support, embeddings, labels: (
        sought.append(embeddings) or (embeddings[None], labels[None])
    )
    loss, _ = module.contrast(view_batch(*batches[0]))
    assert torch.equal(sought[0], torch.cat([module.key_encoder(view) for view in batches[0][0]]))
    loss.backward()
    assert all(parameter.grad is None for parameter in module.key_encoder.parameters())


@pytest.mark.parametrize(
    ("override", "kind"), [("nearest", Nearest), ("top_k", TopK), ("soft", Soft), ("oracle", Oracle), (None, Nearest)]
)
def test_the_groups_files_are_what_a_person_may_choose(override, kind):
    config = compose(["model=nnclr", "model.predictor_dim=8", *([f"neighbours={override}"] if override else [])])
    check(config)
    assert type(build_module(config).choose_neighbours) is kind


def test_neighbours_are_nnclrs():
    with pytest.raises(ConfigError, match=r"model\.neighbours: .*SimCLR takes no 'neighbours'"):
        check(compose(["model=simclr", "neighbours=soft"]))
    with pytest.raises(ConfigError, match=r"model\.neighbours\.k must be 1 or more, got 0"):
        check(compose(["model=nnclr", "neighbours=soft", "model.neighbours.k=0"]))
