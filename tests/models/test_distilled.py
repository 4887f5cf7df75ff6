"""Distillation: equations 2 and 3 in loops, and a teacher that nothing changes."""

import math

import pytest
import torch
from drive import attach_trainer, random_batches, small, train, view_batch
from torch import nn

from kindred.models.distilled import Distilled

TAU = 0.4


def probability(logits):
    powers = [math.exp(value / TAU) for value in logits.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
def test_the_loss_is_equation_3(alpha):
    module = small(Distilled, temperature=TAU, alpha=alpha)
    nn.init.normal_(module.projector.classifier.weight)
    views, labels = random_batches(1)[0]
    loss, logs = module.contrast(view_batch(views, labels))
    by_teacher, by_label, agreeing = [], [], []
    with torch.no_grad():
        for view in views:
            for image, label in zip(view, labels.tolist(), strict=True):
                ours = module.projector(module.encoder(image[None]))[0]
                theirs = module.teacher.projector(module.teacher.encoder(image[None]))[0]
                learnt = probability(ours)
                by_teacher.append(-sum(p * math.log(q) for p, q in zip(probability(theirs), learnt, strict=True)))
                by_label += [-math.log(learnt[label])] if label >= 0 else []
                agreeing.append(ours.argmax() == theirs.argmax())
    expected = alpha * sum(by_teacher) / len(by_teacher) + (1 - alpha) * sum(by_label) / len(by_label)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-10)
    assert float(logs["agreement"]) == sum(agreeing) / len(agreeing)


class Normed(nn.Sequential):
    """Images [B, 1, 3, 3] -> features [B, 6], with batch norm and dropout, whose results depend on the mode."""

    num_features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(9, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))


def test_the_teacher_is_untouched_in_eval_mode_and_in_the_state():
    module = small(Distilled, encoder=Normed, temperature=TAU)
    before = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    module.train()
    assert not any(part.training for part in module.teacher.modules())
    assert module.encoder.training
    students = {id(parameter) for part in (module.encoder, module.projector) for parameter in part.parameters()}
    attach_trainer(module, 1)
    optimised = {id(p) for group in module.build_optimizer().param_groups for p in group["params"]}
    assert optimised == students
    result = train(module, random_batches(4))
    for name, value in module.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert f"teacher.{name}" in result["state"]
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert not torch.equal(result["state"]["encoder.1.weight"], small(Distilled, encoder=Normed).encoder[1].weight)


def test_a_student_learns_what_the_teacher_says():
    module = small(Distilled, temperature=1.0)
    batches = random_batches(1, images=12) * 600
    losses = train(module, batches)["losses"]
    views = torch.cat(list(batches[0][0]))
    taught = module.teacher(views).softmax(dim=1)
    least = -(taught * taught.log()).sum(dim=1).mean()  # its entropy
    assert losses[-1] > least
    assert losses[-1] - least < 0.5 * (losses[0] - least)
