"""Unit vectors of any length, with every bit as torch has it where torch can."""

import pytest
import torch
import torch.nn.functional as F

from kindred.evaluation.geometry import tolerance, uniformity
from kindred.evaluation.knn import knn_search
from kindred.losses import info_nce, nt_xent
from kindred.memory import FeatureQueue
from kindred.sphere import unit

DTYPES = [torch.float32, torch.float64]


def vectors(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 77.0, 1e12])
def test_in_the_usual_range_value_and_gradient_are_torchs_to_the_bit(scale, dtype):
    ours, theirs = ((scale * vectors(64, 100, dtype=dtype)).requires_grad_() for _ in range(2))
    weights = vectors(64, 100, dtype=dtype).flip(0)
    found, expected = unit(ours), F.normalize(theirs, dim=-1)
    assert torch.equal(found, expected)
    for output in (found, expected):
        (output * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [(torch.float32, (-149, -120, -70, 64, 100, 124)), (torch.float64, (-1000, -600, 600, 1000))],
)
def test_beyond_it_they_are_right(dtype, exponents):
    for exponent in exponents:
        x = vectors(8, 5, dtype=dtype)
        x[0] = torch.tensor([1.0, -1.0, 0, 0, 0])
        x = torch.ldexp(x, torch.tensor(exponent)) if exponent > -126 else x * 2.0 ** (exponent + 20) * 2.0**-20
        exact = [[float(v) for v in row] for row in x]  # Python's floats hold float32's smallest and largest
        for row, found in zip(exact, unit(x), strict=True):
            largest = max(map(abs, row))
            scaled = [v / largest for v in row] if largest else row
            length = sum(v * v for v in scaled) ** 0.5 or 1.0
            torch.testing.assert_close(found, torch.tensor([v / length for v in scaled], dtype=dtype))


def test_zero_stays_zero_with_a_finite_gradient_and_nan_is_not_hidden():
    x = torch.zeros(2, 3, requires_grad=True)
    unit(x).sum().backward()
    assert torch.equal(unit(x), torch.zeros(2, 3))
    assert x.grad.isfinite().all()
    for wrong in (torch.nan, torch.inf):
        assert not unit(torch.tensor([[1.0, wrong]])).isfinite().all()


def test_half_precision_is_raised():
    for dtype in (torch.float16, torch.bfloat16):
        x = vectors(4, 300).to(dtype) * 1000  # whose squares float16 could not hold
        torch.testing.assert_close(unit(x), F.normalize(x.double(), dim=-1).float())
        assert unit(x).dtype == torch.float32


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_losses_queue_and_judges_do_not_mind_the_length(factor):
    embeddings, labels = vectors(2, 6, 4), torch.arange(6) % 2
    rows = embeddings.flatten(0, 1)

    def nearest(scale):
        queue = FeatureQueue(6, 4)
        queue.enqueue(scale * embeddings[0])
        torch.testing.assert_close(queue.rows().norm(dim=1), torch.ones(6))
        return queue.nearest(scale * embeddings[1])

    for function in (
        lambda scale: nt_xent(scale * embeddings, 0.1),
        lambda scale: info_nce(scale * embeddings[0], scale * embeddings[1], scale * rows, 0.1),
        lambda scale: uniformity(scale * rows),
        lambda scale: tolerance(scale * embeddings[0], labels),
        lambda scale: knn_search(rows, scale * rows, 3)[1],
        nearest,
    ):
        torch.testing.assert_close(function(factor), function(1.0))
