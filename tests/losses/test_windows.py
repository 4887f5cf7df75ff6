"""InfoNCE of windows against loops that pick every negative one by one, in float64."""

import math

import pytest
import torch

from kindred.losses.windows import candidate_count, first_of, share_first, window_scores

NEGATIVES = ("batch", "sequence", "mixed")
SEQUENCES, STEPS, COLUMNS, DIM = 4, 5, 3, 6


def random_latents(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SEQUENCES, STEPS, COLUMNS, DIM, generator=generator, dtype=torch.float64, requires_grad=True)


def in_loops(predictions, everyone, first, ahead, tau, negatives):
    """The loss and the accuracy, one prediction after the other."""
    losses, right = [], 0
    for sequence in range(len(predictions)):
        for step in range(STEPS - ahead):
            for column in range(COLUMNS):
                prediction = predictions[sequence, step, column]
                place = (first + sequence, step + ahead, column)
                others = []
                for other in range(len(everyone)):
                    same = other == first + sequence
                    if (same and negatives == "batch") or (not same and negatives == "sequence"):
                        continue
                    for s in range(STEPS):
                        others += [everyone[other, s, c] for c in range(COLUMNS) if (other, s, c) != place]
                positive = math.e ** (prediction @ everyone[place] / tau)
                total = positive + sum(math.e ** (prediction @ each / tau) for each in others)
                losses.append(-(positive / total).log())
                right += all(prediction @ everyone[place] > prediction @ each for each in others)
    return sum(losses) / len(losses), right / len(losses)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize(("ahead", "tau", "first", "count"), [(1, 1.0, 0, 4), (2, 0.3, 1, 2), (4, 2.0, 3, 1)])
def test_loss_gradient_and_accuracy_are_those_of_loops(negatives, ahead, tau, first, count):
    everyone = random_latents()
    generator = torch.Generator().manual_seed(1)
    shape = (count, STEPS - ahead, COLUMNS, DIM)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    predictions = (noise / 4 + 2 * everyone.detach()[first : first + count, ahead:]).requires_grad_()  # some are right
    scores = window_scores(predictions, everyone[first : first + count], everyone, first, tau, negatives)
    assert ((scores > -torch.inf).sum(dim=2) == candidate_count(SEQUENCES, STEPS * COLUMNS, negatives)).all()
    loss, accuracy = in_loops(predictions, everyone, first, ahead, tau, negatives)
    torch.testing.assert_close(first_of(scores), loss, rtol=1e-10, atol=0)
    assert share_first(scores).item() == pytest.approx(accuracy)
    assert accuracy > 0
    ours, theirs = (torch.autograd.grad(each, (predictions, everyone)) for each in (first_of(scores), loss))
    for a, e in zip(ours, theirs, strict=True):
        assert e.norm() > 1e-3
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-12)


def test_scores_that_are_equal_are_not_right():
    assert share_first(torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.9, 0.0]]])) == 0.5


def test_half_precision_is_raised_and_large_scores_do_not_overflow():
    latents = 200 * torch.ones(2, 3, 1, 4, dtype=torch.bfloat16)
    scores = window_scores(latents[:, 1:], latents, latents, 0, 1e-3, "mixed")
    assert scores.dtype == torch.float32
    assert first_of(scores).item() == pytest.approx(math.log(6))  # all are equal


def test_a_temperature_of_zero_is_refused():
    latents = random_latents()
    with pytest.raises(ValueError, match="temperature"):
        window_scores(latents[:, 1:], latents, latents, 0, 0.0)
