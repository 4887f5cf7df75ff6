"""The probe's callback: what it logs and keeps, and that nothing stops it or is moved by it."""

import io
from types import SimpleNamespace

import pytest
import torch
from clouds import clouds
from lightning.pytorch.loggers import Logger

from kindred.callbacks.judges.feature_store import BANK, QUERY, FeatureStore
from kindred.callbacks.judges.linear_probe import LinearProbeCallback
from kindred.data.loading import ViewBatch
from kindred.evaluation.linear import PENALTIES, LinearProbe, probe_bank
from kindred.evaluation.logistic import Linear, leading_axes

MIDDLE = PENALTIES[len(PENALTIES) // 2]


class Rows(Logger):
    """What was logged, a dict a call."""

    name = version = "rows"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass


class Evaluations:
    """What the Trainer does in a validation, with features that are given; inputs are `width` copies of them."""

    def __init__(self, width=1):
        self.store, self.probe, self.logger = FeatureStore(), LinearProbeCallback(), Rows()
        views = SimpleNamespace(as_features=lambda inputs: inputs, base_line="pixels", base_line_axes=128)
        self.width = width
        self.trainer = SimpleNamespace(
            callbacks=[self.store, self.probe],
            loggers=[self.logger],
            callback_metrics={},
            datamodule=SimpleNamespace(views=views, bank=range(300), num_classes=8, is_judged=True, monitor="val"),
            num_training_batches=10,
            accumulate_grad_batches=1,
        )

    def run(self, step, bank, query):
        self.trainer.global_step = step
        self.logger.rows.clear()
        self.store.on_validation_epoch_start(self.trainer, None)
        with torch.inference_mode():
            for loader, (features, labels) in ((BANK, bank), (QUERY, query)):
                batch = ViewBatch((features.repeat(1, self.width),), labels, torch.arange(len(labels)))
                outputs = {"features": features, "projections": features}
                self.store.on_validation_batch_end(self.trainer, None, outputs, batch, 0, loader)
            self.probe.on_validation_epoch_end(self.trainer, None)
        self.store.on_validation_end(self.trainer, None)
        return {name: value for row in self.logger.rows for name, value in row.items() if name != "epoch"}


def sets(dtype=torch.float32):
    """A bank of 300 examples and 200 queries, of eight classes."""
    return [(features.to(dtype), labels) for features, labels in (clouds(300, 12, 8), clouds(200, 12, 8, seed=1))]


def accuracy(probe, query):
    return (probe(query[0]).argmax(dim=1) == query[1]).double().mean().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_logs_the_accuracy_of_the_classifier_of_the_bank(dtype):
    bank, query = sets(dtype)
    found = Evaluations().run(0, bank, query)
    expected = accuracy(probe_bank(bank[0].float(), bank[1], torch.arange(300), 8), query)
    assert 0.3 < expected < 1
    assert found == {
        "val/linear_top1": pytest.approx(expected),
        "val/linear_top5": found["val/linear_top5"],
        "pixels/linear_top1": pytest.approx(expected),
        "pixels/linear_top5": found["val/linear_top5"],
    }
    assert found["val/linear_top5"] > expected


def test_wide_inputs_are_judged_on_their_leading_axes():
    bank, query = sets()
    bank, query = ((torch.cat([f, torch.randn(len(f), 140) / 100], dim=1), y) for f, y in (bank, query))
    found = Evaluations().run(0, bank, query)
    turn = leading_axes(bank[0][::2], 128)
    probe = probe_bank(turn(bank[0]), bank[1], torch.arange(300), 8)
    assert found["pixels/linear_top1"] == pytest.approx(accuracy(lambda inputs: probe(turn(inputs)), query))


def test_inputs_are_kept_no_longer_than_the_first_evaluation():
    evaluations, (bank, query) = Evaluations(), sets()
    evaluations.run(0, bank, query)
    assert evaluations.store.inputs is None
    assert evaluations.run(10, bank, query).keys() == {"val/linear_top1", "val/linear_top5"}


def test_its_state_makes_a_resumed_run_go_on_to_the_bit():
    bank, query = sets()
    later = (bank[0] + 0.1 * bank[0].square(), bank[1])
    whole, resumed, anew = Evaluations(), Evaluations(), Evaluations()
    whole.run(0, bank, query)
    torch.save(whole.probe.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    resumed.probe.load_state_dict(torch.load(buffer, weights_only=True))
    for evaluations in (whole, resumed, anew):
        evaluations.run(10, later, query)
    assert torch.equal(whole.probe.last.classifier.weight, resumed.probe.last.classifier.weight)
    assert torch.equal(whole.probe.last.classifier.bias, resumed.probe.last.classifier.bias)
    assert not torch.equal(whole.probe.last.classifier.weight, anew.probe.last.classifier.weight)


def test_a_checkpoint_of_the_probe_that_learned_online_is_read_as_none():
    callback = LinearProbeCallback()
    assert callback.state_dict() == {}
    callback.load_state_dict({"probe": {"weight": torch.zeros(8, 12)}, "optimizer": {"state": {}}})
    assert callback.last is None


def test_features_that_are_not_finite_are_said_and_end_nothing():
    evaluations, (bank, query) = Evaluations(), sets()
    before = evaluations.run(0, bank, query)
    kept = evaluations.probe.last
    diverged = bank[0].clone()
    diverged[7, 3] = float("nan")
    with pytest.warns(UserWarning, match="not finite"):
        assert evaluations.run(10, (diverged, bank[1]), query) == {}
    assert evaluations.probe.last is kept
    assert evaluations.run(20, bank, query)["val/linear_top1"] == pytest.approx(before["val/linear_top1"], abs=0.02)


def test_a_classifier_of_other_features_is_no_start():
    evaluations, (bank, query) = Evaluations(), sets()
    probe = probe_bank(*bank, torch.arange(300), 8)
    evaluations.probe.last = LinearProbe(Linear(-50 * probe.classifier.weight, torch.zeros(8)), MIDDLE, 0.0)
    assert evaluations.run(10, bank, query) == Evaluations().run(10, bank, query)


def test_it_draws_no_random_numbers():
    before = torch.get_rng_state()
    Evaluations(width=20).run(0, *sets())
    assert torch.equal(torch.get_rng_state(), before)
