"""Fine-tuning: which weights it starts from, and that nothing but them tells it from scratch."""

import pytest
import torch
from children import DIGITS, in_child, start
from drive import random_batches, small, view_batch
from torch import nn
from torch.nn.functional import cross_entropy

from kindred.config import compose
from kindred.errors import ConfigError
from kindred.models.finetuned import ClassifierHead, FineTuned
from kindred.models.mocov2 import MoCoV2
from kindred.runs.by_labels import kept_layers
from kindred.runs.run import build_module, load_run
from kindred.runs.starting_weights import load_starting_weights

ENCODER = ["encoder.widths=[8,16]", "encoder.in_channels=1"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A run of SimCLR v2 with a projector of three layers."""
    directory = tmp_path_factory.mktemp("deep") / "run"
    assert start(directory, ["model=simclrv2", "trainer.max_epochs=1", "~callbacks.figures"]) == 0
    return directory


def started(widths, *overrides, batch_norm="true"):
    """A FineTuned as a new training has it before its first step, and the lines that were said."""
    words = ["model=finetuned", "model.classes=10", f"model.widths={widths}", f"model.batch_norm={batch_norm}"]
    config = compose([*words, *ENCODER, *overrides])
    torch.manual_seed(5)
    module = build_module(config)
    return module, load_starting_weights(module, config)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_encoder_and_kept_layers_have_the_runs_weights_bit_for_bit_and_the_classifier_is_zero(deep, layer):
    run = load_run(deep)
    widths, batch_norm = kept_layers(run, layer, "--layer")
    assert (widths, batch_norm) == ([32] * layer, True)
    module, said = started(widths, f"init_from={deep}")
    theirs = run.module.state_dict()
    ours = module.state_dict()
    assert len(said) == 1 + (layer > 0)
    for name, value in ours.items():
        if "classifier" in name:
            assert not value.any()
        else:
            assert torch.equal(value, theirs[name.replace("projector.kept.", "projector.")]), name
    images = torch.rand(5, 1, 8, 8)
    module.eval()
    kept = nn.Sequential(*run.module.projector.layers[: 3 * layer]).eval()
    assert torch.equal(module.projector.kept(module(images)), kept(run.encoder(images)))
    assert torch.equal(module.classify(images), torch.zeros(5, 10))


def test_from_scratch_it_is_the_same_network_with_other_weights(deep):
    scratch, said = started([32, 32])
    ours, _ = started([32, 32], f"init_from={deep}")
    assert said == []
    assert {name: value.shape for name, value in scratch.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
    again, _ = started([32, 32])
    assert all(torch.equal(a, b) for a, b in zip(scratch.parameters(), again.parameters(), strict=True))
    assert not torch.equal(scratch.encoder.layers[0].weight, ours.encoder.layers[0].weight)


@pytest.mark.parametrize(("widths", "batch_norm"), [([64], "true"), ([32, 32, 32], "true"), ([32], "false")])
def test_layers_that_the_run_has_not_are_refused_in_a_line(deep, widths, batch_norm):
    with pytest.raises(
        ConfigError, match=rf"the first {len(widths)} layer\(s\) of its projector are not those of model.wid"
    ):
        started(widths, f"init_from={deep}", batch_norm=batch_norm)


def test_layers_of_other_projectors(tmp_path):
    run = type("Run", (), {"path": tmp_path})
    run.module = small(MoCoV2, queue_size=12)
    assert kept_layers(run, 1, "--layer") == ([7], False)
    run.module.projector = nn.Linear(6, 5)  # InstDisc's
    assert kept_layers(run, 0, "--layer") == ([], False)
    with pytest.raises(ConfigError, match=r"--layer is 1: .* has 0 layer\(s\) before its last one, so give 0$"):
        kept_layers(run, 1, "--layer")
    run.module.projector = ClassifierHead(6, [7, 4], True, 3)  # fine-tuned once more
    assert kept_layers(run, 2, "--layer") == ([7, 4], True)


def test_the_loss_is_the_cross_entropy_of_labelled_images_and_every_weight_learns():
    module = small(FineTuned)
    nn.init.normal_(module.projector.classifier.weight)
    views, labels = random_batches(1)[0]
    loss, logs = module.contrast(view_batch(views, labels))
    logits = torch.cat([module.projector(module.encoder(view)) for view in views])
    known = labels.repeat(2) >= 0
    torch.testing.assert_close(loss, cross_entropy(logits[known], labels.repeat(2)[known]), rtol=1e-12, atol=0)
    right = (logits.argmax(dim=1) == labels.repeat(2))[known]
    assert float(logs["top1"]) == float(right.float().mean())
    loss.backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.classes=10", "data.unlabelled=true"], "data.unlabelled is true"),
        (["model.classes=7"], "model.classes is 7, and digits has 10"),
        (["model.classes=1"], "model.classes must be 2 or more, got 1"),
        ([], "model.classes: needs a value"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(tmp_path, words, message, capfd):
    from kindred.commands.train import main

    digits = [word for word in DIGITS if not word.startswith("model.")]
    assert in_child(lambda: main([*digits, "model=finetuned", f"run_dir={tmp_path / 'run'}", *words])) == 1
    assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
