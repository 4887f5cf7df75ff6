"""SimCLR v2: a projector of three layers, and NT-Xent with a memory's rows as further negatives, in a loop."""

import pytest
import torch
from drive import CropEncoder, random_batches, small, view_batch
from torch import nn
from torch.nn.functional import normalize

from kindred.config import check, compose
from kindred.models.simclr import SimCLR
from kindred.models.simclrv2 import SimCLRv2
from kindred.runs.run import build_module


@pytest.mark.parametrize("crops", [0, 2])
def test_rows_of_the_memory_are_negatives_of_every_anchor(crops):
    module = small(SimCLRv2, encoder=CropEncoder, memory_size=20, temperature=0.3)
    module.memory.enqueue(torch.randn(7, 5, generator=torch.Generator().manual_seed(4)).double())
    views, labels = random_batches(1, crops=crops)[0]
    ours, logs = module.contrast(view_batch(views, labels))
    z = [normalize(module.projector(module.encoder(view)), dim=1) for view in views]
    terms = []
    for view in range(len(z)):
        for image in range(6):
            candidates = [(v, i) for v in (0, 1) for i in range(6) if (v, i) != (view, image)]
            rows = torch.cat([torch.stack([z[v][i] for v, i in candidates]), module.memory.rows()])
            logits = (rows @ z[view][image] / 0.3).log_softmax(dim=0)
            terms.append(-logits[[place for place, (_, i) in enumerate(candidates) if i == image]].mean())
    torch.testing.assert_close(ours, torch.stack(terms).mean(), rtol=1e-10, atol=0)
    assert logs == {"memory_fill": 7 / 20}
    assert module._step["candidates"] == 2 * 6 - 1 + 7


def test_the_memory_gets_the_momentum_networks_embeddings_after_backward():
    module = small(SimCLRv2, memory_size=20)
    views, labels = random_batches(1)[0]
    with torch.no_grad():
        for parameter in module.key_encoder.parameters():
            parameter.mul_(1.5)
    module.contrast(view_batch(views, labels))[0].backward()
    assert len(module.memory) == 0
    module.on_after_backward()
    keys = normalize(torch.cat([module.key_encoder(view) for view in views]), dim=1)
    torch.testing.assert_close(module.memory.rows(), keys, rtol=1e-12, atol=1e-14)
    assert all(parameter.grad is None for parameter in module.key_encoder.parameters())


@pytest.mark.parametrize(
    ("model", "kind", "layers"), [("simclr", SimCLR, 2), ("simclrv2", SimCLR, 3), ("simclrv2_memory", SimCLRv2, 3)]
)
def test_the_configured_projector(model, kind, layers):
    config = compose([f"model={model}", "model.hidden_dim=16", "model.projection_dim=8"])
    check(config)
    module = build_module(config)
    assert type(module) is kind
    widths = [layer.out_features for layer in module.projector.modules() if isinstance(layer, nn.Linear)]
    assert widths == [16] * (layers - 1) + [8]
