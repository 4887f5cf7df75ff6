"""CPC against the paper's equations in loops, information that is known, contexts that look back only, and wrong inputs."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from drive import Encoder, RowsEncoder, random_batches, small, train, view_batch
from torch import nn

from kindred.config import ConfigError
from kindred.encoders.windows import latents_of
from kindred.models.cpc import CPC
from kindred.models.parts.contexts import CONTEXTS

OPTIMISER = partial(torch.optim.SGD, lr=0.1)


def paper_loss(module, views, steps_ahead, negatives, tau):
    """Equations 3 and 4 for each view, step ahead, image, row and column, one after the other."""
    weights = module.bilinear.weight.view(steps_ahead, module.num_features, -1)  # W_k
    means, right = [], []
    for view in views:
        latents = latents_of(module.encoder, view)
        contexts = module.context(latents)
        for k in range(1, steps_ahead + 1):
            terms, hits = [], 0
            images, rows, columns = latents.shape[:3]
            everywhere = [(i, r, c) for i in range(images) for r in range(rows) for c in range(columns)]
            for i, r, c in everywhere:
                if r + k >= rows:
                    continue
                kept = [
                    place
                    for place in everywhere
                    if place != (i, r + k, c) and (negatives == "mixed" or (place[0] == i) == (negatives == "sequence"))
                ]
                expected = weights[k - 1] @ contexts[i, r, c] / tau
                own, others = latents[i, r + k, c] @ expected, [latents[place] @ expected for place in kept]
                terms.append(torch.stack([own, *others]).logsumexp(dim=0) - own)
                hits += all(own > other for other in others)
            means.append(torch.stack(terms).mean())
            right.append((k, hits / len(terms), len(kept) + 1))
    return torch.stack(means), right


@pytest.mark.parametrize("negatives", ["batch", "sequence", "mixed"])
@pytest.mark.parametrize(("context", "count", "tau"), [("gru", 1, 1.0), ("conv", 2, 0.2)])
def test_the_loss_is_the_papers(negatives, context, count, tau):
    module = small(CPC, RowsEncoder, negatives=negatives, context=context, temperature=tau, steps_ahead=2, hidden_dim=5)
    views, labels = random_batches(1, views=count, images=4)[0]
    ours, logs = module.contrast(view_batch(views, labels))
    losses, right = paper_loss(module, views, 2, negatives, tau)
    torch.testing.assert_close(ours, losses.mean(), rtol=1e-10, atol=0)
    parameters = list(module.parameters())
    for a, e in zip(*(torch.autograd.grad(loss, parameters) for loss in (ours, losses.mean())), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)
    for k in (1, 2):
        of_k = [number for number, each in enumerate(right) if each[0] == k]
        accuracy = sum(right[number][1] for number in of_k) / count
        bound = math.log(right[of_k[0]][2]) - losses[of_k].mean().item()
        assert logs[f"step{k}_accuracy"].item() == pytest.approx(accuracy)
        assert logs[f"step{k}_bound"].item() == pytest.approx(bound)


@pytest.mark.parametrize("negatives", ["batch", "mixed"])
def test_a_batch_encoded_in_parts_has_the_same_loss_and_gradients(negatives):
    batches = random_batches(3, views=2)
    whole, parts = (
        train(small(CPC, RowsEncoder, steps_ahead=2, negatives=negatives, chunks=chunks), batches) for chunks in (1, 3)
    )
    for key in ("losses", "gradients"):
        for a, e in zip(parts[key], whole[key], strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_knows_what_was_and_not_what_comes(context):
    torch.manual_seed(0)
    network = CONTEXTS[context](6, 5).double()
    latents = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    contexts = network(latents)
    assert contexts.shape == (2, 5, 4, 5)
    (gradient,) = torch.autograd.grad(contexts[1, 2, 1].sum(), latents)
    of_step = gradient.norm(dim=-1)[1]  # [T, C]
    assert (gradient[0] == 0).all()
    assert (of_step[3:] == 0).all()
    assert (of_step[:3, 1] > 0).all()
    neighbours = of_step[:3, [0, 2]]
    assert (neighbours == 0).all() if context == "gru" else (neighbours > 0).all()


class Steps(nn.Module):
    """A series [B, T], each of its numbers a window."""

    num_features = 16

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Linear(32, 16))

    def encode_windows(self, series):
        return self.network(series[..., None])

    def forward(self, series):
        return self.encode_windows(series).mean(dim=1)


def autoregression(count, generator, rho=0.9, steps=8):
    """x_t = rho x_(t-1) + noise, of unit variance; [count, steps]."""
    series = [torch.randn(count, generator=generator)]
    for _ in range(steps - 1):
        noise = torch.randn(count, generator=generator)
        series.append(rho * series[-1] + math.sqrt(1 - rho**2) * noise)
    return torch.stack(series, dim=1)


def test_the_bound_comes_near_the_information_in_an_autoregression_and_stays_below():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = CPC(Steps(), OPTIMISER, hidden_dim=32, steps_ahead=3)
    module.trainer = SimpleNamespace(global_step=0)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)

    def contrast():
        return module.contrast(view_batch((autoregression(64, generator),), torch.zeros(64)))

    for _ in range(150):
        optimizer.zero_grad()
        contrast()[0].backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logs = [contrast()[1] for _ in range(100)]
    for k in (1, 2, 3):
        bounds = torch.stack([each[f"step{k}_bound"] for each in logs])
        information = -math.log(1 - 0.9 ** (2 * k)) / 2  # of two Gaussians that correlate by rho^k
        error = bounds.std() / len(bounds) ** 0.5
        assert 0.85 * information < bounds.mean() < information + 3 * error, k


class OneView(SimpleNamespace):
    def __len__(self):
        return 1


def data(inputs):
    views = OneView(example_inputs=lambda count: None if inputs is None else inputs[:count])
    return SimpleNamespace(views=views, batch_size=8)


def test_more_steps_ahead_than_an_input_has_are_refused_before_the_first_epoch():
    fits = small(CPC, RowsEncoder, hidden_dim=5, steps_ahead=2).float()
    fits.check(data(torch.zeros(4, 1, 3, 3)), 1)
    assert fits.encoder.training
    module = small(CPC, RowsEncoder, hidden_dim=5, steps_ahead=3).float()
    message = r"^model\.steps_ahead is 3, but an input has 3 steps of windows: give at most 2$"
    with pytest.raises(ConfigError, match=message):
        module.check(data(torch.zeros(4, 1, 3, 3)), 1)
    module.check(data(None), 1)  # where nobody knows an input
    with pytest.raises(ConfigError, match=message):
        module.contrast(view_batch((torch.zeros(4, 1, 3, 3),), torch.zeros(4)))
    with pytest.raises(ConfigError, match=r"an input has 1 steps of windows: give inputs of more windows$"):
        module.contrast(view_batch((torch.zeros(4, 1, 1, 3),), torch.zeros(4)))


def test_views_of_several_sizes_and_encoders_without_windows_are_refused():
    module = small(CPC, RowsEncoder, hidden_dim=5, steps_ahead=1).float()
    views = torch.zeros(4, 1, 3, 3), torch.zeros(4, 1, 2, 3)
    with pytest.raises(ConfigError, match=r"shapes \[\[1, 2, 3\], \[1, 3, 3\]\]: CPC needs views of one size$"):
        module.contrast(view_batch(views, torch.zeros(4)))
    with pytest.raises(ConfigError, match=r"^encoder: Encoder gives no windows .* ENCODER=patches is one$"):
        CPC(Encoder(), OPTIMISER)


def test_what_is_judged_is_the_mean_of_the_latents():
    module = small(CPC, RowsEncoder, hidden_dim=5, steps_ahead=1)
    views, labels = random_batches(1, views=2)[0]
    found = module.training_step(view_batch(views, labels), 0)
    expected = torch.stack([latents_of(module.encoder, view).mean(dim=(1, 2)) for view in views])
    torch.testing.assert_close(found["features"], expected.detach())
    torch.testing.assert_close(module(views[0]), expected[0])
    assert found["candidates"] == 5 * 9 + 1
