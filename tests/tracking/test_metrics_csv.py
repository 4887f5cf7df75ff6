"""metrics.csv against a dictionary of rows, through closing, reopening and torn lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kindred.tracking.metrics_csv import MetricsFile, format_number, read_columns, read_metrics

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
calls = st.lists(
    st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from(["a/x", "b/y", "c/z", "epoch"]), numbers, min_size=1)),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(calls=calls, reopen_at=st.integers(0, 12), cut=st.integers(0, 40))
def test_any_sequence_of_calls_reads_back(tmp_path_factory, calls, reopen_at, cut):
    path = tmp_path_factory.mktemp("m") / "metrics.csv"
    file, expected, step = MetricsFile(path), {}, 0
    for position, (advance, metrics) in enumerate(calls):
        step += advance
        if position == reopen_at:
            file = MetricsFile(path)
        file.log(metrics, step)
        expected.setdefault(step, {"step": step}).update(metrics)
        assert read_metrics(path) == list(expected.values())  # on disk at once: a kill loses nothing
    file.keep_until(cut)
    kept = [row for row in expected.values() if row["step"] <= cut]
    assert read_metrics(path) == kept
    file.log({"a/x": 1.0}, max(step, cut))
    assert read_metrics(path)[-1]["a/x"] == 1.0


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.log({"train/loss": 1.5}, 1)
    file.log({"train/loss": 1.25}, 2)
    path.write_text(path.read_text()[:-3])
    assert read_metrics(path) == [{"step": 1, "train/loss": 1.5}]
    MetricsFile(path).log({"train/loss": 0.5}, 2)
    assert read_metrics(path) == [{"step": 1, "train/loss": 1.5}, {"step": 2, "train/loss": 0.5}]


@pytest.mark.parametrize(
    "damage",
    ["2,0.5,1.25,7\n", "2,0.5\n", "\n", "2,0.5,1.2.5\n", ",0.5,1.25\n", "2,0.5,\ufffd\x00\n", "5\n3,1,1,1\n2\n"],
)
def test_rows_that_two_writers_tore_are_left_out_and_counted(tmp_path, capsys, damage):
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,epoch,train/loss\n1,0.25,1.5\n{damage}3,0.75,1.125\n")
    whole = [{"step": 1, "epoch": 0.25, "train/loss": 1.5}, {"step": 3, "epoch": 0.75, "train/loss": 1.125}]
    assert read_metrics(path) == whole
    assert list(read_columns(path)["step"]) == [1, 3]
    count = damage.count("\n")
    assert capsys.readouterr().err == f"{path}: {count} damaged {'row' if count == 1 else 'rows'} left out\n"
    MetricsFile(path).log({"train/loss": 1.0}, 4)  # a run that goes on leaves a whole file behind
    assert read_metrics(path) == [*whole, {"step": 4, "train/loss": 1.0}]
    assert len(path.read_text().splitlines()) == 4


def test_bytes_that_are_no_text_are_damage_too(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,train/loss\n1,1.5\n2,\xff\xfe\n")
    assert read_metrics(path) == [{"step": 1, "train/loss": 1.5}]


def test_steps_never_go_back(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log({"a/x": 1.0}, 5)
    with pytest.raises(ValueError, match="step 4 after those of step 5"):
        file.log({"a/x": 1.0}, 4)


@given(numbers)
def test_numbers_read_back_exactly(value):
    assert float(format_number(value)) == value
