"""SupCon against pytorch-metric-learning, and that it refuses images without labels."""

import lightning
import numpy as np
import pytest
import torch
from drive import random_batches, small, view_batch
from pytorch_metric_learning.losses import SupConLoss

from kindred.data.images.datamodule import ImageDataModule
from kindred.data.images.views import MultiView, View
from kindred.data.source import ArrayExamples
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon

LABELS = torch.tensor([4, 0, 4, 1, 0, 4])


def parameters(module):
    return [*module.encoder.parameters(), *module.projector.parameters()]


@pytest.mark.parametrize("count", [2, 3])
def test_loss_and_gradients_against_pytorch_metric_learning(count):
    module = small(SupCon, temperature=0.2)
    views, _ = random_batches(1, views=count)[0]
    ours, _ = module.contrast(view_batch(views, LABELS))
    embeddings = module.projector(module.encoder(views.flatten(0, 1)))
    theirs = SupConLoss(temperature=0.2)(embeddings, LABELS.repeat(count))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for a, e in zip(*(torch.autograd.grad(loss, parameters(module)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


def test_without_labels_in_common_it_is_simclr():
    supcon, simclr = small(SupCon, temperature=0.2), small(SimCLR, temperature=0.2)
    simclr.projector = supcon.projector
    views, _ = random_batches(1)[0]
    for labels in (torch.arange(6), torch.full((6,), -1), torch.tensor([0, -1, 1, -1, 2, -1])):
        ours, theirs = (module.contrast(view_batch(views, labels))[0] for module in (supcon, simclr))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert (supcon.contrast(view_batch(views, LABELS))[0] - theirs).abs() > 1e-3


class Holidays:
    """Train images nobody has labelled, or all of one class, next to a few labelled ones, as in STL-10."""

    def __init__(self, train_label=-1):
        self.train_label = train_label

    name, class_names, mean, std = "holidays", ["sea", "hills"], (0.5,), (0.5,)

    def prepare(self):
        pass

    def load(self, split):
        if split == "val":
            return None
        labels = np.full(20, self.train_label) if split == "train" else np.arange(20) % 2
        return ArrayExamples(np.zeros((20, 1, 3, 3), np.uint8), labels)


@pytest.mark.parametrize(
    ("train_label", "message"),
    [
        (-1, "model=supcon .* holidays have no labels: choose another model"),
        (1, "model=supcon .* all train images of holidays are of one, 'hills': choose another model"),
    ],
)
@pytest.mark.parametrize("start", [lightning.Trainer.validate, lightning.Trainer.fit])
def test_nothing_to_contrast_is_refused_by_name_before_anything_is_encoded(start, train_label, message, monkeypatch):
    module = small(SupCon)
    monkeypatch.setattr(module, "forward", None)
    data = ImageDataModule(
        Holidays(train_label), MultiView([View(), View()], 0), batch_size=4, image_size=3, channels=1
    )
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=message):
        start(trainer, module, data)
