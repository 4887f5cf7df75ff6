"""The names that are derived from a configuration are those that a run with it wrote."""

import json
import subprocess
import sys

import pytest
from children import DIGITS, start

from kindred.callbacks.metric_names import metric_names
from kindred.config import compose

COMMON = "+views@callbacks.label_free.views=crop_only"


def written(directory):
    return set(json.loads((directory / "summary.json").read_text()))


def test_of_the_default_callbacks(run):
    assert metric_names(compose(DIGITS)) == written(run)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("mocov2", ["data.val_size=0", "callbacks=hardness", "model.queue_size=512", COMMON]),
        ("instdisc", []),
        pytest.param("instdisc", ["~callbacks.knn", "model.loss=contrastive"], marks=pytest.mark.slow),
        ("nnclr", ["~callbacks.knn", "~callbacks.geometry", "callbacks.figures=null", "model.queue_size=256"]),
    ],
)
def test_of_other_methods_and_callbacks(tmp_path, method, more):
    overrides = [f"model={method}", "trainer.max_epochs=1", *more]
    # Without kNN there is no accuracy that decides which checkpoint is best; the run does without.
    assert start(tmp_path / "run", overrides) == 0
    assert metric_names(compose([*DIGITS, *overrides])) == written(tmp_path / "run")


def test_one_embedded_view_has_no_positive_pairs(tmp_path):
    overrides = ["model=mocov2", "model.symmetric=false", "model.queue_size=256", "trainer.max_epochs=1"]
    assert start(tmp_path / "run", overrides) == 0
    pairs = {"train/positive_similarity", "train/alignment", "train/projector_alignment"}
    assert metric_names(compose([*DIGITS, *overrides])) - written(tmp_path / "run") == pairs
    assert "nan" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_a_class_of_ones_own_may_record_anything():
    assert metric_names(compose(["+callbacks.mine={_target_: my.Callback}"])) is None
    assert metric_names(compose(["model._target_=my.Method"])) is None


def test_no_torch_is_imported_for_it():
    code = (
        "import sys; from kindred.callbacks.metric_names import metric_names; from kindred.config import compose; "
        "metric_names(compose()); sys.exit(bool({'torch', 'lightning'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
