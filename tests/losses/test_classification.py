"""Cross-entropies of classifiers against loops in float64, with labels that are not there and on several ranks."""

import math

import pytest
import torch
from ranks import run_ranks
from torch.nn.functional import one_hot

from kindred.distributed import rank, world_size
from kindred.losses.classification import classify, distill, right_share

LABELS = torch.tensor([0, 2, -1, 1, -1, 2])


def logits(seed=0, views=2):
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(views, 6, 3, generator=generator, dtype=torch.float64)).requires_grad_()


def probability(row, temperature):
    powers = [math.exp(value / temperature) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_by_labels_it_is_the_mean_over_labelled_views(temperature):
    x = logits()
    terms = [
        -math.log(probability(x[view, image].detach(), temperature)[label])
        for view in range(2)
        for image, label in enumerate(LABELS.tolist())
        if label >= 0
    ]
    ours = classify(x, LABELS, temperature)
    assert float(ours.detach()) == pytest.approx(sum(terms) / 8, rel=1e-12)
    ours.backward()
    expected = (x.detach() / temperature).softmax(dim=-1) - one_hot(LABELS.clamp(min=0), 3)
    expected[:, LABELS < 0] = 0
    torch.testing.assert_close(x.grad, expected / (8 * temperature), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_by_a_teacher_it_is_equation_2(temperature):
    student, teacher = logits(), logits(1)
    terms = []
    for view in range(2):
        for image in range(6):
            taught = probability(teacher[view, image].detach(), temperature)
            learnt = probability(student[view, image].detach(), temperature)
            terms.append(-sum(p * math.log(q) for p, q in zip(taught, learnt, strict=True)))
    ours = distill(student, teacher, temperature)
    assert float(ours.detach()) == pytest.approx(sum(terms) / 12, rel=1e-12)
    ours.backward()
    assert teacher.grad is None
    expected = [(x.detach() / temperature).softmax(dim=-1) for x in (student, teacher)]
    torch.testing.assert_close(student.grad, (expected[0] - expected[1]) / (12 * temperature), rtol=1e-9, atol=1e-15)


def test_without_any_label_it_is_zero_and_so_is_its_gradient():
    x = logits()
    loss = classify(x, torch.full((6,), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert right_share(x, torch.full((6,), -1)).isnan()


def test_the_share_that_is_right_counts_labelled_views():
    x = one_hot(torch.tensor([[0, 2, 1, 0, 0, 2], [1, 2, 1, 1, 0, 0]]), 3).double()
    assert float(right_share(x, LABELS)) == 5 / 8
    assert float(right_share(x, x[0].argmax(dim=-1))) == 9 / 12


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    "labels", [LABELS, torch.tensor([-1, -1, -1, 0, 1, -1])], ids=["mixed", "all on the last ranks"]
)
def test_the_ranks_mean_is_the_mean_over_all_labelled_examples(world, labels):
    def on_this_rank():
        x = logits()
        share = slice(rank() * 6 // world_size(), (rank() + 1) * 6 // world_size())
        loss = classify(x[:, share], labels[share])
        loss.backward()
        return loss.detach(), x.grad, right_share(x[:, share], labels[share])

    loss, gradient, right = on_this_rank()
    results = run_ranks(on_this_rank, world)
    assert float(sum(each[0] for each in results) / world) == pytest.approx(float(loss), rel=1e-10)
    torch.testing.assert_close(sum(each[1] for each in results) / world, gradient, rtol=1e-10, atol=1e-16)
    assert all(float(each[2]) == float(right) for each in results)


def test_half_precision_is_raised():
    x = logits().detach().half()
    assert classify(x, LABELS).dtype == distill(x, x, 1.0).dtype == torch.float32
