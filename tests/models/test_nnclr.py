"""NNCLR against the paper's two terms in float64, lightly's modules, and a count of the neighbours by hand."""

import pytest
import torch
from drive import random_batches, small, train, view_batch
from lightly.loss import NTXentLoss
from lightly.models.modules import NNMemoryBankModule
from ranks import run_ranks
from torch.nn.functional import normalize

from kindred.distributed import rank
from kindred.models.nnclr import NNCLR, matching_share


def full(module, rows=20, seed=4):
    """The module with rows in its support set that belong to classes 0, 1, 2, 0, ..."""
    support = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    module.support.enqueue(support, torch.arange(rows) % 3)
    return module


def neighbours(module, embeddings, labels=None):
    """The one neighbour of each, and its label."""
    found, classes = module.neighbours(embeddings, torch.zeros(len(embeddings)).long() if labels is None else labels)
    assert len(found) == len(classes) == 1
    return found[0], classes[0]


def trained_parameters(module):
    return [p for p in module.parameters() if p.requires_grad]


def paper_loss(module, views, tau):
    """Dwibedi et al., eq. 4 and the text below it, term by term: NN(z1) against p2 of all images, and the mirror."""
    z = [module.projector(module.encoder(view)) for view in views]
    p = [normalize(module.predictor(embeddings), dim=1) for embeddings in z]
    support = list(module.support.rows()) if len(module.support) else None
    terms = []
    for one, other in ((0, 1), (1, 0)):
        for i, anchor in enumerate(z[one].detach()):
            own = anchor if support is None else max(support, key=lambda row: float(normalize(anchor, dim=0) @ row))
            similarities = [normalize(own, dim=0) @ prediction / tau for prediction in p[other]]
            terms.append(torch.logsumexp(torch.stack(similarities), dim=0) - similarities[i])
    return sum(terms) / len(terms)


def assert_same_loss_and_gradients(module, ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for a, e in zip(*(torch.autograd.grad(loss, trained_parameters(module)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("rows", [0, 1, 20])
def test_the_loss_is_the_papers(rows, tau):
    module = small(NNCLR, queue_size=30, temperature=tau)
    if rows:
        full(module, rows)
    views, labels = random_batches(1)[0]
    assert_same_loss_and_gradients(
        module, module.contrast(view_batch(views, labels))[0], paper_loss(module, views, tau)
    )


def test_the_neighbours_against_lightlys_bank():
    module = full(small(NNCLR, queue_size=20))
    bank = NNMemoryBankModule(size=(20, 5))
    bank.bank = module.support.features.clone()
    embeddings = 7 * random_batches(1)[0][0].flatten(1)[:, :5]
    found, _ = neighbours(module, embeddings)
    assert torch.equal(found, bank(embeddings))


def test_each_term_against_lightlys_loss_with_the_other_predictions_as_its_memory_bank():
    # lightly's own NNCLR, NTXentLoss(nn(z1), p2), also takes neighbours and predictions of one view for negatives; the
    # paper does not. With the other images' predictions in its memory bank it is the paper's term of one image.
    module = full(small(NNCLR, queue_size=20, temperature=0.2))
    views, labels = random_batches(1)[0]
    embeddings = [module.projector(module.encoder(view)) for view in views]
    terms = []
    for one, other in ((0, 1), (1, 0)):
        found = neighbours(module, embeddings[one])[0]
        predictions = module.predictor(embeddings[other])
        for i in range(6):
            criterion = NTXentLoss(temperature=0.2, memory_bank_size=(5, 5))
            criterion.memory_bank.bank = normalize(predictions[torch.arange(6) != i].detach(), dim=1)
            terms.append(criterion(found[i : i + 1], predictions[i : i + 1]))
    loss, _ = module.contrast(view_batch(views, labels))
    torch.testing.assert_close(loss, sum(terms) / 12, rtol=1e-10, atol=0)


def test_the_support_set_changes_only_after_backward_and_by_the_first_view_alone():
    module = small(NNCLR, queue_size=20)
    for step, (views, labels) in enumerate(random_batches(3)):
        before = module.support.rows().clone()
        module.contrast(view_batch(views, labels))[0].backward()
        assert torch.equal(module.support.rows(), before)
        module.on_after_backward()
        first = normalize(module.projector(module.encoder(views[0])), dim=1).detach()
        torch.testing.assert_close(module.support.rows(), torch.cat([before, first]), rtol=1e-12, atol=1e-14)
        assert torch.equal(module.support.labels[step * 6 : step * 6 + 6], labels)
        assert not module.support.features.requires_grad


def test_neighbours_carry_no_gradient():
    module = small(NNCLR, queue_size=20)
    embeddings = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    own, _ = neighbours(module, embeddings)
    assert torch.equal(own, embeddings)
    assert not own.requires_grad
    assert not neighbours(full(module), embeddings)[0].requires_grad


def test_nn_match_is_the_share_of_neighbours_with_the_anchors_label():
    module, axes = small(NNCLR, queue_size=10), torch.eye(5, dtype=torch.float64)
    module.support.enqueue(axes[:4], torch.tensor([0, 1, 2, -1]))
    nearest = [0, 0, 1, 2, 3, 3]
    found, classes = neighbours(module, 3 * axes[nearest] + 0.1)
    assert torch.equal(found, axes[nearest])
    assert classes.tolist() == [0, 0, 1, 2, -1, -1]
    # Four anchors are labelled; the first and the third find their own class.
    assert matching_share(classes, torch.tensor([0, 2, 1, -1, 1, -1])) == 2 / 4
    assert matching_share(classes, torch.full((6,), -1)).isnan()


def test_logs_say_how_full_the_support_set_is_and_how_many_neighbours_match():
    module = small(NNCLR, queue_size=16)
    logs = train(module, [(views, torch.full_like(labels, 2)) for views, labels in random_batches(4)])["logs"]
    assert [log["support_fill"] for log in logs] == [0, 6 / 16, 12 / 16, 1]
    assert [log["nn_match"] for log in logs] == [0, 1, 1, 1]  # at first there are no neighbours


def test_labels_observe_and_do_not_train():
    module = full(small(NNCLR, queue_size=20))
    views, labels = random_batches(1)[0]
    losses = [module.contrast(view_batch(views, other))[0] for other in (labels, labels + 1)]
    assert torch.equal(*losses)


def test_mixed_precision_finds_the_same_neighbours():
    # In bfloat16 similarities near 1 are 0.004 apart: among many rows the first of those would win, not the nearest.
    module = small(NNCLR, queue_size=4000).float()
    generator = torch.Generator().manual_seed(0)
    module.support.enqueue(torch.randn(4000, 5, generator=generator))
    anchors = torch.randn(50, 5, generator=generator)
    expected, _ = neighbours(module, anchors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(neighbours(module, anchors)[0], expected)


def gradient_of_another_ranks_loss():
    module = full(small(NNCLR, queue_size=20))
    views, labels = random_batches(1)[0]
    share = slice(rank() * 3, rank() * 3 + 3)
    loss, _ = module.contrast(view_batch(views[:, share], labels[share]))
    (loss if rank() == 1 else 0 * loss).backward()
    return torch.cat([p.grad.flatten() for p in trained_parameters(module)]).norm()


def test_predictions_learn_from_the_losses_of_other_ranks():
    assert run_ranks(gradient_of_another_ranks_loss, 2)[0] > 1e-3
