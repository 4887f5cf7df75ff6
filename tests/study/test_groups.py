"""Runs are found, their settings told apart, and their seeds folded; against numbers worked out by hand."""

import json
import math

import pytest
from omegaconf import OmegaConf
from written_runs import write_run

from kindred.errors import ConfigError
from kindred.study.groups import find_runs, fold_seeds, is_outdated, numbers
from kindred.study.settings import differing, flat_config, short_names


def test_seeds_are_folded_into_mean_and_sample_standard_deviation(tmp_path):
    reached = {0.1: (0.5, 0.6, 0.7), 0.03: (0.81, 0.83), 10.0: (0.4,)}
    for temperature, values in reached.items():
        for seed, value in enumerate(values):
            changes = {"model.temperature": temperature}
            write_run(tmp_path / f"{temperature}-{seed}", [0.9, value], seed=seed, changes=changes)
    keys, groups = fold_seeds(find_runs([tmp_path]))
    assert keys == ["model.temperature"]
    assert [group.settings for group in groups] == [{"model.temperature": t} for t in (0.03, 0.1, 10.0)]
    assert groups[1].values("val/knn_top1") == [0.5, 0.6, 0.7]
    assert [group.mean("val/knn_top1") for group in groups] == pytest.approx([0.82, 0.6, 0.4])
    # (0.01^2 + 0.01^2) / 1 and (0.1^2 + 0 + 0.1^2) / 2 under the root.
    assert [group.std("val/knn_top1") for group in groups[:2]] == pytest.approx([0.0141421356, 0.1])
    assert math.isnan(groups[2].std("val/knn_top1"))
    assert groups[2].mean("val/knn_top1_best") == 0.9
    assert math.isnan(groups[0].mean("val/linear_top1"))
    assert groups[0].values("val/linear_top1") == []
    assert groups[1].mean("seconds") == 11


def test_a_metric_that_one_seed_lacks_is_the_mean_of_the_others(tmp_path):
    write_run(tmp_path / "a", [0.5], more={"val/tolerance": 0.25})
    write_run(tmp_path / "b", [0.7], seed=1)
    (tmp_path / "b" / "evaluation.json").write_text('{"test/linear_top1": 0.75, "test/knn_top1": null}')
    _, [group] = fold_seeds(find_runs([tmp_path]))
    assert group.values("val/tolerance") == [0.25]
    assert group.values("evaluation/linear_top1") == [0.75]
    assert group.mean("val/knn_top1") == pytest.approx(0.6)


def test_an_evaluation_of_earlier_weights_is_left_out(tmp_path):
    for name, step in (("a", 8), ("b", 4)):
        write_run(tmp_path / name, [0.5, 0.6])
        (tmp_path / name / "evaluation.json").write_text(f'{{"step": {step}, "test/linear_top1": 0.75}}')
    runs = find_runs([tmp_path])
    assert [is_outdated(run) for run in runs] == [False, True]
    assert [numbers(run).get("evaluation/linear_top1") for run in runs] == [0.75, None]


def test_a_run_that_goes_on_beyond_its_summary_is_what_its_metrics_say(tmp_path):
    directory = write_run(tmp_path / "a", [0.5, 0.6])
    with (directory / "metrics.csv").open("a") as file:
        file.write("12,3,0.7,0.25\n")
    summary = find_runs([tmp_path])[0].summary
    assert (summary["step"], summary["val/knn_top1"], "epochs" in summary) == (12, 0.7, False)


def test_runs_that_begin_with_other_seeds_of_one_pretraining_are_seeds(tmp_path):
    finetuned = ["model=finetuned", "model.classes=16"]
    for temperature in (0.1, 0.5):
        for seed in (0, 1):
            name = f"{temperature}-{seed}"
            write_run(tmp_path / "first" / name, seed=seed, changes={"model.temperature": temperature})
            first = {"init_from": str(tmp_path / "first" / name)}
            write_run(tmp_path / "second" / name, [0.5 + seed / 8], overrides=finetuned, changes=first)
            second = {"init_from": str(tmp_path / "second" / name)}
            write_run(tmp_path / "third" / name, [0.75 + seed / 8], overrides=finetuned, changes=second)
    for place, values in (("second", [0.5, 0.625]), ("third", [0.75, 0.875])):
        keys, groups = fold_seeds(find_runs([tmp_path / place]))
        assert keys == ["init_from"]
        begun = "first" if place == "second" else "second"
        assert [group.settings["init_from"] for group in groups] == [
            str(tmp_path / begun / f"{t}-0") for t in (0.1, 0.5)
        ]
        assert [group.values("val/knn_top1") for group in groups] == [values, values]
        assert [group.count for group in groups] == ["2", "2"]
    (tmp_path / "first" / "0.1-0" / "config.yaml").unlink()  # what cannot be read any more stays by itself
    assert [group.count for group in fold_seeds(find_runs([tmp_path / "second"]))[1]] == ["1", "1", "2"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_runs_that_begin_with_each_other_are_an_error(tmp_path, length):
    names = [tmp_path / str(number) for number in range(length)]
    for name, before in zip(names, [*names[1:], names[0]], strict=True):
        write_run(name, overrides=["model=finetuned", "model.classes=16"], changes={"init_from": str(before)})
    write_run(tmp_path / "after", changes={"init_from": str(names[0])})
    with pytest.raises(ConfigError, match=r"[012]/config.yaml: what init_from names begins with this run itself"):
        fold_seeds(find_runs([tmp_path / "after"]))


def test_nothing_but_seeds_and_places_differs(tmp_path):
    write_run(tmp_path / "a", [0.5])
    changes = {
        "run_dir": "elsewhere",
        "log_dir": "other",
        "resume": "b",
        "logger.wandb.project": "p",
        "callbacks.progress": None,
        "trainer.enable_progress_bar": False,
    }
    write_run(tmp_path / "b", [0.5], seed=3, changes=changes)
    keys, groups = fold_seeds(find_runs([tmp_path]))
    assert keys == []
    assert [len(group.runs) for group in groups] == [2]


def test_groups_come_in_natural_order(tmp_path):
    for place, (queue, split) in enumerate([(1024, "b10"), (64, "b9"), (None, "b9"), (64, "a"), (1024, "b9")]):
        changes = {"model.queue_size": queue, "data.source.root": split}
        write_run(tmp_path / str(place), changes=changes)
    _, groups = fold_seeds(find_runs([tmp_path]))
    assert [tuple(group.settings[key] for key in ("model.queue_size", "data.source.root")) for group in groups] == [
        (None, "b9"),
        (64, "a"),
        (64, "b9"),
        (1024, "b9"),
        (1024, "b10"),
    ]


def test_a_batch_size_and_the_learning_rate_that_follows_from_it_both_differ():
    configs = [{"data.batch_size": b, "model.optimizer.lr": 0.06 * b / 128, "seed": b, "x": [1, 2]} for b in (128, 256)]
    assert differing(configs) == ["data.batch_size", "model.optimizer.lr"]
    assert differing(configs[:1]) == []


def test_absent_is_a_value_and_an_int_is_no_float():
    configs = [{"a": None, "trainer.limit_train_batches": 1}, {"trainer.limit_train_batches": 1.0}]
    assert differing(configs) == ["a", "trainer.limit_train_batches"]


def test_another_method_is_told_by_its_name_and_the_numbers_that_both_have(tmp_path):
    write_run(tmp_path / "a", overrides=("model=simclr", "model.temperature=0.1", "model.hidden_dim=64"))
    write_run(tmp_path / "b", overrides=("model=mocov2", "model.temperature=0.2", "model.hidden_dim=64"))
    keys, groups = fold_seeds(find_runs([tmp_path]))
    assert {"choices.model", "model.temperature"} <= set(keys)
    assert not {"model._target_", "model.queue_size", "model.symmetric", "model.hidden_dim"} & set(keys)
    assert [group.settings["choices.model"] for group in groups] == ["mocov2", "simclr"]
    assert [group.settings["model.temperature"] for group in groups] == [0.2, 0.1]


def test_a_key_that_does_not_follow_from_the_method_is_told(tmp_path):
    for name, overrides in {
        "a": ("model=simclr",),
        "b": ("model=mocov2", "model.queue_size=64"),
        "c": ("model=mocov2", "model.queue_size=128"),
    }.items():
        write_run(tmp_path / name, overrides=overrides)
    keys, groups = fold_seeds(find_runs([tmp_path]))
    assert "model.queue_size" in keys
    assert [group.settings.get("model.queue_size") for group in groups] == [64, 128, None]


def test_a_choice_of_the_same_content_does_not_differ():
    configs = [{"choices.views": name, "views.size": 8, "choices.experiment": name} for name in ("small", "mine")]
    assert differing(configs) == []


def test_views_that_change_in_the_same_way_are_one_key():
    configs = [{"views.views.0.flip": flip, "views.views.1.flip": flip} for flip in (0.5, 0.0)]
    assert differing(configs) == ["views.views.0.flip"]
    configs[1]["views.views.1.flip"] = 0.25
    assert differing(configs) == ["views.views.0.flip", "views.views.1.flip"]


@pytest.mark.parametrize("model", ["simclr", "mocov2", "nnclr", "supcon"])
def test_a_config_reads_as_omegaconf_reads_it(tmp_path, model):
    changes = {"model.optimizer.weight_decay": 1e-6, "encoder.widths": [8, 16], "logger": {}}
    [run] = find_runs([write_run(tmp_path / "run", overrides=(f"model={model}",), changes=changes)])
    flat = flat_config(run)
    assert flat["model.optimizer.weight_decay"] == 1e-6
    assert flat["encoder.widths"] == [8, 16]
    assert flat["views.views.1.crop_scale"] == [0.08, 1.0]
    assert {key.partition(".")[0] for key in flat} == set(run.config)
    for key, value in flat.items():
        expected = OmegaConf.select(run.config, key)
        plain = OmegaConf.to_container(expected) if OmegaConf.is_config(expected) else expected
        assert (value, type(value)) == (plain, type(plain)), key


def test_a_number_without_a_point_is_a_number(tmp_path):
    directory = write_run(tmp_path / "run")
    text = "lr: 1e-3\nmore: {lr: 5E4, text: '1e-3', name: 1e-3x}\n"
    (directory / "config.yaml").write_text(text)
    expected = {"lr": 0.001, "more.lr": 5e4, "more.text": "1e-3", "more.name": "1e-3x"}
    assert flat_config(find_runs([directory])[0]) == expected


def test_a_config_that_is_no_mapping_is_named(tmp_path):
    directory = write_run(tmp_path / "run")
    (directory / "config.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match=r"config\.yaml holds no configuration"):
        flat_config(find_runs([directory])[0])


def test_runs_are_found_once_wherever_they_are(tmp_path, monkeypatch):
    logs = tmp_path / "logs"
    paths = [write_run(logs / "photos" / "simclr" / name, [0.5]) for name in ("b", "a")]
    paths += [write_run(logs / "digits" / "nnclr" / "c", finished=False)]
    (logs / "latest").symlink_to("photos/simclr/b")
    (logs / "photos" / "notes").mkdir()
    (logs / "photos" / "notes" / "config.yaml").write_text("a: 1\n")  # not of a run
    everything = sorted(paths)
    found = [run.path for run in find_runs([logs])]
    assert found == everything
    assert [run.path for run in find_runs([f"{logs}/*/*/*", logs / "latest", paths[0]])] == everything
    assert [run.path for run in find_runs([f"{logs}/**/[ab]"])] == everything[1:]
    monkeypatch.chdir(tmp_path)
    assert [str(run.path) for run in find_runs(["logs/latest"])] == ["logs/photos/simclr/b"]


@pytest.mark.parametrize("place", ["nowhere", "empty", "*/x?"])
def test_a_place_without_a_run_is_named(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError) as error:
        find_runs(["run", place])
    assert str(error.value).startswith(f"{place}: there is no run")


def test_names_are_as_short_as_no_other_key_has_them():
    keys = ["model.temperature", "callbacks.knn.temperature", "choices.model", "seed", "views.seed", "data.batch_size"]
    assert short_names(keys) == {
        "model.temperature": "model.temperature",
        "callbacks.knn.temperature": "knn.temperature",
        "choices.model": "model",
        "seed": "seed",
        "views.seed": "views.seed",
        "data.batch_size": "batch_size",
    }


def test_a_real_run(run):
    [found] = find_runs([run])
    assert fold_seeds([found])[1][0].mean("val/knn_top1") == found.summary["val/knn_top1"]
    assert flat_config(found)["model.hidden_dim"] == 32


def test_a_seed_that_was_run_again_is_a_repeat_and_counts_once(tmp_path):
    for name, seed, value in [("a", 0, 0.5), ("b", 0, 0.5), ("c", 0, 0.8), ("d", 1, 0.9)]:
        write_run(tmp_path / name, [value], seed=seed)
    _, [group] = fold_seeds(find_runs([tmp_path]))
    assert (len(group.runs), group.count) == (4, "2 + 2 repeats")
    assert group.values("val/knn_top1") == pytest.approx([0.6, 0.9])
    assert group.mean("val/knn_top1") == pytest.approx(0.75)
    assert group.std("val/knn_top1") == pytest.approx(0.3 / math.sqrt(2))  # and not that of four
    write_run(tmp_path / "e", [0.9], seed=1, changes={"data.seed": 5})  # another order of the same images
    assert fold_seeds(find_runs([tmp_path]))[1][0].count == "3 + 2 repeats"


def data_of(names="n", times="t", sample="s", sample_times=(1, 2), **more):
    """data.json of a run, of one split."""
    train = {"files": 2, "names": names, "times": times, "sample": sample, "sample_times": [*sample_times]}
    return json.dumps({"source": "imagefolder", "splits": {"train": train, **more}})


def told(tmp_path, *datas, root=None):
    """How runs with these data.json (None: an older run) are told apart: keys, and the names of the runs of each row."""
    for place, data in enumerate(datas):
        changes = {"data.source.root": root[place]} if root else {}
        directory = write_run(tmp_path / str(place), [0.5], seed=place, changes=changes)
        if data is not None:
            (directory / "data.json").write_text(data)
    keys, groups = fold_seeds(find_runs([tmp_path]))
    return keys, [[run.path.name for run in group.runs] for group in groups]


def test_runs_whose_data_changed_are_not_one_row(tmp_path):
    changed = data_of(times="u", sample_times=(1, 3))  # of one file the time is another
    keys, rows = told(tmp_path, data_of(), changed, data_of(names="m"), data_of())
    assert keys == ["data.fingerprint"]
    assert sorted(rows) == [["0", "3"], ["1"], ["2"]]


@pytest.mark.parametrize(
    "other",
    [
        data_of(),
        data_of(times="u", sample_times=(7, 8)),  # all times are others, and the bytes the same: a copy
        data_of(test={"names": "x", "times": "y"}),  # which no training has seen
        None,
    ],
)
def test_the_same_data_are_one_row(tmp_path, other):
    assert told(tmp_path, data_of(), other) == ([], [["0", "1"]])


def test_other_bytes_under_other_times_are_other_data(tmp_path):
    assert told(tmp_path, data_of(), data_of(times="u", sample="z", sample_times=(7, 8)))[1] == [["0"], ["1"]]


def test_the_same_data_in_another_place_are_one_row_and_others_are_told_by_their_place(tmp_path):
    copy = data_of(times="u", sample_times=(7, 8))
    assert told(tmp_path / "copies", data_of(), copy, root=["here", "there"]) == ([], [["0", "1"]])
    assert told(tmp_path / "old", data_of(), None, root=["here", "there"])[0] == ["data.source.root"]
    found = told(tmp_path / "others", data_of(), copy, data_of(names="m"), root=["here", "there", "elsewhere"])
    assert found == (["data.source.root"], [["2"], ["0", "1"]])
