"""Label-free judges in a run: they are what their functions say of the run's own encoder, and change nothing."""

import numpy as np
import pytest
import torch
from children import start
from outcomes import assert_same, outcome

import kindred
from kindred.evaluation.geometry import alignment, effective_rank
from kindred.evaluation.label_free import alpha_req, info_nce, lidar
from kindred.tracking.metrics_csv import read_metrics


@torch.no_grad()
def test_the_last_epochs_judges_are_those_of_the_runs_encoder(run):
    loaded = kindred.load_run(run)
    data, module, reached = loaded.datamodule(), loaded.module.eval(), loaded.summary
    data.setup()
    images = np.arange(len(data.query))  # fewer than are asked for
    batch = data.query.__getitems__(images)
    plain = module(data.views.plain(batch.raw))
    views = [view for epoch in (-2, -1) for view in data.views.augment(batch.raw, batch.index, epoch)]
    augmented = torch.stack([module(view) for view in views])
    for prefix, each, several in (
        ("", plain, augmented),
        ("projector_", module.projector(plain), torch.stack([module.projector(view) for view in augmented])),
    ):
        expected = {
            "rankme": effective_rank(each),
            "alpha_req": alpha_req(each),
            "lidar": lidar(several),
            "alignment": alignment(several),
            "info_nce": info_nce(several[:2], 0.2),
        }
        for name, value in expected.items():
            assert reached[f"val/{prefix}{name}"] == pytest.approx(float(value), rel=1e-4), prefix + name
    assert reached["val/rankme"] == pytest.approx(reached["val/effective_rank"], rel=1e-6)


def test_a_run_without_them_has_the_same_weights_and_rows(run, tmp_path):
    directory = tmp_path / "run"
    assert start(directory, ["~callbacks.label_free"]) == 0
    one, other = outcome(directory), outcome(run)
    judged = {name for row in read_metrics(run / "metrics.csv") for name in row} - {
        name for row in read_metrics(directory / "metrics.csv") for name in row
    }
    assert len(judged) == 10
    other["rows"] = [{name: value for name, value in row.items() if name not in judged} for row in other["rows"]]
    assert_same(one, other)


def test_features_that_are_not_finite_are_not_judged_and_common_views_are_the_same_for_all(run, tmp_path):
    """The former are Guard's business, which says so in one line."""
    directory = tmp_path / "run"
    without = ("guard", "geometry", "knn", "linear_probe", "figures")
    words = ["model.optimizer.lr=1e30", "trainer.max_epochs=1", *(f"~callbacks.{name}" for name in without)]
    assert start(directory, [*words, "views=crop_only", "+views@callbacks.label_free.views=digits"]) == 0
    untrained, *_, last = read_metrics(directory / "metrics.csv")
    assert "val/lidar" not in last
    trained_by_those = read_metrics(run / "metrics.csv")[0]  # the same encoder before its first step
    for of in ("", "projector_"):
        for name in ("lidar", "alignment", "info_nce"):
            assert untrained[f"val/{of}common_{name}"] == trained_by_those[f"val/{of}{name}"]
            assert untrained[f"val/{of}common_{name}"] != untrained[f"val/{of}{name}"]
