"""A run from before classes moved: it loads, goes on and is compared as if nothing had happened.

`before_the_move` was written by Kindred 0.1 while all modules lay in one folder: MoCo v2 on digits, killed after 7 of its 12
steps. `whole.csv` is what the same run wrote to its end, unbroken.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from children import resume
from hydra.utils import get_object

import kindred
from kindred.runs.reading.moved import MOVED
from kindred.study.settings import flat_config
from kindred.tracking.metrics_csv import read_columns

BEFORE = Path(__file__).parent / "before_the_move"


@pytest.fixture
def cut(tmp_path):
    shutil.copytree(BEFORE, tmp_path / "run")
    return tmp_path / "run"


def test_each_moved_class_is_where_the_table_says():
    for target in MOVED.values():
        get_object(target)
    assert not MOVED.keys() & set(MOVED.values())


def test_it_is_read_back(cut):
    run = kindred.load_run(cut)
    assert len(run.module.queue) == 512
    assert run.encoder.num_features == 16
    datamodule = run.datamodule()
    datamodule.setup()
    assert len(datamodule.train) == 1199 - 120
    assert flat_config(run)["encoder._target_"] == "kindred.encoders.convnet.ConvNet"


def test_it_goes_on_to_the_end_that_it_would_have_had(cut):
    assert resume(cut) == 0
    ended, whole = kindred.load_run(cut).metrics, read_columns(BEFORE / "whole.csv")
    assert ended.keys() == whole.keys()
    # The linear probe was another one then, and the cut run's begins only now.
    for name in whole.keys() - {"train/images_per_second", "val/linear_top1", "val/linear_top5"}:
        # Not to the bit: another processor rounds otherwise than the one that wrote the file.
        np.testing.assert_allclose(ended[name], whole[name], rtol=5e-3, atol=0.01, err_msg=name)
