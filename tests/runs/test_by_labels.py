"""The overrides that fine-tune and distil: texts as they were, numbers that fit the labels."""

import pytest

from kindred.config import compose
from kindred.errors import ConfigError
from kindred.runs.by_labels import finetune_overrides, quoted
from kindred.runs.run import build_module, load_run
from kindred.runs.starting_weights import load_starting_weights


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "it's",
        "a, [b] {c}: d=e",
        "back\\slash",
        "end\\",
        "\\'",
        "'",
        "\\\\'x",
        "null",
        "3",
        "",
        " ",
        "é ü",
        "$HOME",
    ],
)
def test_hydra_reads_every_text_as_it_was(value):
    assert compose([f"log_dir={quoted(value)}"]).log_dir == value


def test_and_lists_and_parts_and_numbers():
    value = [{"_target_": "kindred.data.images.views.View", "crop_scale": [0.2, 1.0], "size": None, "flip": 1e-05}]
    assert compose([f"views.views={quoted(value)}"]).views.views == value


@pytest.mark.parametrize(
    ("labels", "epochs", "evaluated", "batch"), [(1.0, 30, 3, 128), (0.1, 90, 9, 16), (0.05, 90, 9, 8)]
)
def test_what_fits_a_share_of_the_labels(run, labels, epochs, evaluated, batch):
    config = compose(finetune_overrides(load_run(run), labels, 1, False, ["seed=3"]))
    assert (config.trainer.max_epochs, config.trainer.check_val_every_n_epoch) == (epochs, evaluated)
    assert (config.data.batch_size, config.data.labels, config.data.label_seed) == (batch, labels, 3)
    assert config.model.optimizer.lr == pytest.approx(0.005 * batch**0.5)
    assert (config.model.classes, config.init_from) == (10, str(run.resolve()))
    assert config.callbacks.checkpoints.monitor == "classifier_top1"


def test_from_scratch_the_overrides_are_the_same_but_for_the_weights(run):
    one, other = (finetune_overrides(load_run(run), 0.1, 1, scratch) for scratch in (False, True))
    assert set(one) - set(other) == {f"init_from={quoted(str(run.resolve()))}"}
    assert set(other) < set(one)


def test_a_student_without_a_teachers_weights_is_refused():
    config = compose(
        ["model=distilled", "model.classes=3", "model.teacher={_target_: kindred.encoders.convnet.ConvNet}"]
    )
    with pytest.raises(ConfigError, match=r"model\.teacher_from is null: name the fine-tuned run"):
        load_starting_weights(build_module(config), config)
