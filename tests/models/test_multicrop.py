"""Small crops are contrasted with the large ones: SimCLR, SupCon and NNCLR against loops over anchors in float64."""

import math

import pytest
import torch
from children import start
from drive import CropEncoder, random_batches, small, view_batch
from torch.nn.functional import normalize

from kindred.config import check, compose
from kindred.losses import contrast_images
from kindred.models.contrastive import large_views
from kindred.models.nnclr import NNCLR
from kindred.models.simclr import SimCLR
from kindred.models.supcon import SupCon
from kindred.tracking.metrics_csv import read_metrics

LABELS = torch.tensor([1, 0, 1, -1, 2, -1])
LARGE = (0, 1)


def embedded(module, views):
    return [module.projector(module.encoder(view)) for view in views]


def mean_over_anchors(z, kin_of, tau):
    """Each view of each image against the large views of all images, itself left out; those with kin count."""
    z = [normalize(view, dim=1) for view in z]
    losses = []
    for view in range(len(z)):
        for image in range(6):
            candidates = [(v, i) for v in LARGE for i in range(6) if (v, i) != (view, image)]
            logits = torch.stack([z[view][image] @ z[v][i] / tau for v, i in candidates])
            kin = [place for place, (_, i) in enumerate(candidates) if kin_of(image, i)]
            if kin:
                losses.append(-logits.log_softmax(dim=0)[kin].mean())
    return torch.stack(losses).mean()


def assert_same_loss_and_gradients(module, ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    parameters = [p for p in module.parameters() if p.requires_grad]
    for a, e in zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("method", [SimCLR, SupCon])
def test_every_view_is_contrasted_with_the_large_ones_of_all_images(method, crops):
    module = small(method, encoder=CropEncoder, temperature=0.3)
    views, _ = random_batches(1, crops=crops)[0]
    same_class = {(a, b) for a in range(6) for b in range(6) if a == b or (LABELS[a] == LABELS[b] >= 0)}
    kin_of = {SimCLR: lambda a, b: a == b, SupCon: lambda a, b: (a, b) in same_class}[method]
    ours, _ = module.contrast(view_batch(views, LABELS))
    assert_same_loss_and_gradients(module, ours, mean_over_anchors(embedded(module, views), kin_of, 0.3))


def test_nnclr_predicts_the_neighbours_of_large_views_from_every_other_view():
    module = small(NNCLR, encoder=CropEncoder, queue_size=20, temperature=0.2)
    module.support.enqueue(torch.randn(20, 5, generator=torch.Generator().manual_seed(4)).double())
    views, _ = random_batches(1, crops=2)[0]
    z = embedded(module, views)
    p = [normalize(module.predictor(view), dim=1) for view in z]
    terms = []
    for large in LARGE:
        for other in range(4):
            if other == large:
                continue
            for image in range(6):
                own = max(
                    module.support.rows(), key=lambda row: float(normalize(z[large][image].detach(), dim=0) @ row)
                )
                logits = p[other] @ own / 0.2
                terms.append(torch.logsumexp(logits, dim=0) - logits[image])
    assert len(terms) == 6 * (2 + 2 * 2)
    ours, _ = module.contrast(view_batch(views, LABELS))
    assert_same_loss_and_gradients(module, ours, sum(terms) / len(terms))
    module.on_after_backward()  # only the first view enters
    torch.testing.assert_close(module.support.features[:6], normalize(z[0], dim=1).detach(), rtol=1e-12, atol=1e-14)


def test_the_large_views_are_the_largest_where_there_are_two():
    def of_sizes(*sizes):
        return large_views([torch.zeros(2, 3, size, size) for size in sizes])

    assert of_sizes(8, 8) == [0, 1]
    assert of_sizes(4, 8, 4, 8) == [1, 3]
    assert of_sizes(8, 4, 4) == [0, 1, 2]  # one alone would have no kin
    assert of_sizes(8) == [0]


def test_where_all_views_are_large_nothing_changes():
    embeddings = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(contrast_images(embeddings, 0.2), contrast_images(embeddings, 0.2, large=[0, 1, 2]))


def test_each_size_is_encoded_once():
    module, passes = small(SimCLR, encoder=CropEncoder), []
    module.encoder.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    module.contrast(view_batch(*random_batches(1, crops=3)[0]))
    assert passes == [2 * 6, 3 * 6]


def test_the_configured_small_crops_have_half_the_side():
    config = compose(["views=multicrop", "data=cifar10"])
    check(config)
    assert [view.size for view in config.views.views] == [32, 32, 16, 16, 16, 16]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["simclr", "nnclr", "supcon"])
def test_a_run_with_small_crops(model, tmp_path):
    settings = [f"model={model}", "model.projection_dim=16", "views=multicrop", "trainer.max_epochs=1"]
    settings += ["model.queue_size=512", "model.predictor_dim=32"] if model == "nnclr" else []
    assert start(tmp_path / "run", settings) == 0
    assert (tmp_path / "run" / "figures" / "views.png").exists()
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if "train/information_bound" in row]
    candidates = {"simclr": 2 * 256 - 1, "supcon": 2 * 256 - 1, "nnclr": 256}[model]
    for row in rows:
        assert row["train/information_bound"] == pytest.approx(math.log(candidates) - row["train/loss"], abs=1e-4)
