"""SimCLR against lightly's loss, and that it uses all views and the head it says."""

import pytest
import torch
from drive import random_batches, small, view_batch
from lightly.loss import NTXentLoss
from torch import nn

from kindred.models.simclr import SimCLR


def parameters(module):
    return [*module.encoder.parameters(), *module.projector.parameters()]


def test_loss_and_gradients_against_lightly():
    module = small(SimCLR, temperature=0.3)
    views, labels = random_batches(1)[0]
    ours, _ = module.contrast(view_batch(views, labels))
    theirs = NTXentLoss(temperature=0.3)(*(module.projector(module.encoder(view)) for view in views))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, e in zip(*(torch.autograd.grad(loss, parameters(module)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_view_is_contrasted_with_every_other(count):
    # Each pair of an image's views by itself: cross-entropy of one kin against all embeddings but the anchor's own.
    module = small(SimCLR, temperature=0.5)
    views, labels = random_batches(1, views=count)[0]
    z = nn.functional.normalize(module.projector(module.encoder(views.flatten(0, 1))), dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(-torch.inf).log_softmax(dim=1)
    pairs = [
        logits[a * 6 + image, b * 6 + image] for a in range(count) for b in range(count) for image in range(6) if a != b
    ]
    loss, _ = module.contrast(view_batch(views, labels))
    torch.testing.assert_close(loss, -torch.stack(pairs).mean(), rtol=1e-12, atol=0)


def test_labels_do_not_train():
    module = small(SimCLR)
    views, labels = random_batches(1)[0]
    assert torch.equal(module.contrast(view_batch(views, labels))[0], module.contrast(view_batch(views, labels + 1))[0])


def test_features_are_those_before_the_head():
    module = small(SimCLR)
    views, labels = random_batches(1)[0]
    module.contrast(view_batch(views, labels))
    assert torch.equal(module._step["features"], torch.stack([module(view) for view in views]))
    assert module._step["projections"].shape == (2, 6, 5)
    assert not module._step["features"].requires_grad
