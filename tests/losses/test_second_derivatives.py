"""A second derivative is right, or an error; never that of a gradient taken for a constant."""

from functools import partial

import pytest
import torch
from ranks import run_ranks
from test_contrastive import random

from kindred import distributed
from kindred.losses import BY_GROUP, BY_QUEUE, contrast_classes, contrast_images, image_contrast, nt_xent, sup_con

GROUPS, COLUMNS = torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6)
LABELS = torch.tensor([0, 0, 1])
QUEUE = random(4, 4, seed=2, requires_grad=False)
TWICE = {
    **{n: lambda z, f=f: f(z, z, GROUPS, GROUPS, COLUMNS, 0.3) for n, f in BY_GROUP.items()},
    **{f"{n}, queue": lambda z, f=f: f(z[:3], z[3:], QUEUE, 0.3) for n, f in BY_QUEUE.items()},
}
ONCE = {
    "contrastive": TWICE.pop("contrastive"),
    "contrastive, queue": TWICE.pop("contrastive, queue"),
    "a queue that is trained": lambda z: BY_QUEUE["contrastive"](z[:2], z[2:4], z[4:], 0.3),
    "nt_xent": lambda z: nt_xent(z.unflatten(0, (2, 3)), 0.3),
    "sup_con": lambda z: sup_con(z.unflatten(0, (2, 3)), LABELS, 0.3),
    "image_contrast": lambda z: image_contrast(z[:3], z[3:], 0.3),
}


def slope(loss, z, **more):
    return torch.autograd.grad(loss(z), z, **more)[0]


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("factor", [1.0, torch.tensor(1.0, requires_grad=True)], ids=["", "times what is trained"])
def test_in_tiles_it_is_an_error(name, factor):
    z = random(6, 4)
    with pytest.raises(RuntimeError, match="differentiable once: no create_graph"):
        torch.autograd.grad(slope(lambda z: factor * ONCE[name](z), z, create_graph=True).square().sum(), z)


def test_of_a_temperature_that_is_learnt_too():
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(slope(partial(nt_xent, random(2, 3, 4)), tau, create_graph=True), tau)


@pytest.mark.parametrize("name", TWICE)
def test_else_it_is_right(name):
    z, direction = random(6, 4), random(6, 4, seed=1, requires_grad=False)
    first = slope(TWICE[name], z, create_graph=True)
    (second,) = torch.autograd.grad((first * direction).sum(), z)
    there, back = ((z + step * direction).detach().requires_grad_() for step in (1e-5, -1e-5))
    numeric = (slope(TWICE[name], there) - slope(TWICE[name], back)) / 2e-5
    torch.testing.assert_close(second, numeric, rtol=1e-6, atol=1e-8)


def share(rows):
    """This rank's of [V, B, ...], as many images on each rank."""
    return rows.chunk(distributed.world_size(), dim=1)[distributed.rank()].contiguous()


def product_with_the_hessian():
    """Of the ranks' mean loss, by a direction; this rank's rows."""
    everything, direction = random(2, 6, 4, requires_grad=False), random(2, 6, 4, seed=1, requires_grad=False)
    z, labels = share(everything).requires_grad_(), share(torch.tensor([[0, 1, 0, 1, 2, 2]]))[0]
    for loss in (
        lambda z: contrast_images(z, 0.3, BY_GROUP["decoupled"]),
        lambda z: contrast_classes(z, labels, 0.3, BY_GROUP["supcon_in"]),
    ):
        first = slope(lambda z, loss=loss: loss(z) / distributed.world_size(), z, create_graph=True)
        yield torch.autograd.grad((first * share(direction)).sum(), z)[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_on_several_ranks_it_is_that_of_one(ranks):
    parts = run_ranks(lambda: list(product_with_the_hessian()), ranks)
    for number, whole in enumerate(product_with_the_hessian()):
        torch.testing.assert_close(torch.cat([part[number] for part in parts], dim=1), whole, rtol=1e-10, atol=1e-12)
