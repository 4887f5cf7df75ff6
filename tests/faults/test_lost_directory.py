"""The run directory is moved, or deleted, under the run."""

import shutil

import pytest
from children import At, add_callback
from faulty import assert_ended_as, go, one_line


@pytest.mark.parametrize("step", [5, 8])
@pytest.mark.parametrize("fault", ["deleted", "moved away"])
def test_the_directory_vanishes(unbroken, ledger, tmp_path, capfd, fault, step):
    whole, _ = unbroken()
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def vanish():
        shutil.rmtree(run) if fault == "deleted" else run.rename(elsewhere)

    with ledger.meets(f"the run directory is {fault} under way"):
        assert go(run, prepare=lambda: add_callback(At(step, vanish))) == [1]
        assert f"{run}" in one_line(capfd.readouterr().err)
        assert not run.exists()
        again = elsewhere if elsewhere.exists() else run
        assert go(again) == [0]
        assert_ended_as(again, whole)
