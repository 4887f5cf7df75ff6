"""What a sweep file says, to Optuna and to W&B."""

import re
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from rich.console import Console

from kindred.config import ConfigError, compose
from kindred.config_files import CONFIGS
from kindred.study.sweeps.checking import check
from kindred.study.sweeps.reading import read_sweep
from kindred.study.sweeps.report import print_sweep
from kindred.study.sweeps.rows import published
from kindred.study.sweeps.sweep_file import as_overrides

SHIPPED = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))
MODELS = {"queue": ["model=mocov2"], "views": ["model=simclr"]}
GOOD = {
    "method": "random",
    "metric": {"name": "val/knn_top1", "goal": "maximize"},
    "run_cap": 5,
    "parameters": {
        "model.temperature": {"min": 0.03, "max": 1.0, "distribution": "log_uniform_values"},
        "model.optimizer.lr": {"min": 0.1, "max": 0.5},
        "data.batch_size": {"min": 64, "max": 128},
        "model.warmup_epochs": {"min": 0.0, "max": 2.0, "q": 0.5, "distribution": "q_uniform"},
        "views": {"values": ["small", "crop_only"]},
        "model.hidden_dim": {"value": 64},
    },
    "command": [
        "${env}",
        "python",
        "-m",
        "kindred",
        "train",
        "data=digits",
        "${args_no_hyphens}",
        "trainer.max_epochs=2",
    ],
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        kept = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return str(path)

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_composes_each_of_its_trainings(name):
    sweep = read_sweep(name).with_overrides(MODELS.get(name, []))
    check(sweep)
    grid = sweep.grid()
    assert len({tuple(parameters.items()) for parameters in grid}) == len(grid) >= 6
    config = compose([*sweep.base, *as_overrides(grid[-1])])
    assert config.seed == grid[-1]["seed"]
    text = (CONFIGS / "sweep" / f"{name}.yaml").read_text()
    assert text.startswith(f"# make sweep SWEEP={name}")


def test_temperatures_are_spaced_by_their_logarithm():
    values = read_sweep("temperature").parameters["model.temperature"]["values"]
    ratios = [b / a for a, b in pairwise(values)]
    assert values[0] == 0.03
    assert values[-1] == 1.0
    assert max(ratios) / min(ratios) < 1.05


def test_distributions(write):
    sweep = read_sweep(write())
    assert sweep.base == ("data=digits", "trainer.max_epochs=2")
    assert sweep.varied == [
        "model.temperature",
        "model.optimizer.lr",
        "data.batch_size",
        "model.warmup_epochs",
        "views",
    ]
    assert sweep.distributions() == {
        "model.temperature": FloatDistribution(0.03, 1.0, log=True),
        "model.optimizer.lr": FloatDistribution(0.1, 0.5),
        "data.batch_size": IntDistribution(64, 128),
        "model.warmup_epochs": FloatDistribution(0.0, 2.0, step=0.5),
        "views": CategoricalDistribution(["small", "crop_only"]),
        "model.hidden_dim": CategoricalDistribution([64]),
    }


def test_a_grid_of_ranges_and_texts(write):
    parameters = {key: GOOD["parameters"][key] for key in ("model.warmup_epochs", "views", "model.hidden_dim")}
    grid = read_sweep(write(method="grid", run_cap=None, parameters=parameters)).grid()
    assert len(grid) == 5 * 2
    assert [p["model.warmup_epochs"] for p in grid[::2]] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert grid[1] == {"model.warmup_epochs": 0.0, "views": "crop_only", "model.hidden_dim": 64}


def test_several_grids_in_one_file():
    """Wang & Liu's ten settings: two losses at four temperatures, and two that have none."""
    sweep = read_sweep("wang_liu")
    grid = sweep.grid()
    assert len(grid) == 3 * (2 * 4 + 2)
    assert [c["seed"] for c in grid] == [0] * 10 + [1] * 10 + [2] * 10
    assert all(("model.temperature" in c) == (c["model.loss"] in ("contrastive", "hard_contrastive")) for c in grid)
    assert sweep.parameters["model.loss"]["values"] == ["contrastive", "hard_contrastive", "simple", "hard_simple"]
    assert sweep.varied == ["model.loss", "model.temperature"]
    assert [sorted(sent["parameters"]) for sent in sweep.for_wandb()] == [
        ["model.loss", "model.temperature", "seed"],
        ["model.loss", "seed"],
    ]
    source, known = published(sweep)
    assert "CIFAR-10" in source
    keys = ("model.loss", "model.temperature")
    assert {tuple(row[key] for key in keys) for row in known} == {tuple(c.get(key) for key in keys) for c in grid}


def test_published_values_of_nnclrs_augmentation_are_of_settings_that_the_sweep_has():
    sweep = read_sweep("nnclr_augmentation")
    source, known = published(sweep)
    assert "Dwibedi" in source
    settings = {(each["model"], each["views"]) for each in sweep.grid()}
    assert {(row["model"], row["views"]) for row in known} <= settings
    report = StringIO()
    print_sweep(Path("somewhere"), sweep, [], Console(file=report, width=200))
    assert report.getvalue().count("crop_only") == 2  # without a uniformity or a tolerance


def test_multicrop_has_as_many_epochs_fewer_as_its_steps_are_longer():
    grid = read_sweep("multicrop").grid()
    assert len(grid) == 18
    assert {(each["views"], each["trainer.max_epochs"]) for each in grid} == {("small", 15), ("multicrop", 9)}
    assert check(read_sweep("multicrop")).trainer.max_epochs == 15


def test_all_methods_are_side_by_side():
    methods = {"simclr", "simclrv2", "simclrv2_memory", "mocov2", "nnclr", "supcon", "instdisc"}
    assert set(read_sweep("methods").parameters["model"]["values"]) >= methods


def test_grids_of_one_file_must_agree(tmp_path):
    path = tmp_path / "mine.yaml"
    search = {key: value for key, value in GOOD.items() if key != "run_cap"} | {"method": "grid"}
    search["parameters"] = {"seed": {"values": [0, 1]}}
    path.write_text(yaml.safe_dump_all([search, {**search, "metric": {"name": "val/linear_top1", "goal": "maximize"}}]))
    with pytest.raises(
        ConfigError, match="metric: the grids of one file must agree, here 'val/knn_top1' and 'val/linear"
    ):
        read_sweep(str(path))
    path.write_text(yaml.safe_dump_all([search, {}]))
    with pytest.raises(ConfigError, match="parameters: needs at least one"):
        read_sweep(str(path))
    path.write_text(yaml.safe_dump_all([GOOD, GOOD]))
    with pytest.raises(ConfigError, match="method is 'random': several searches in one file can only be grids"):
        read_sweep(str(path))


@pytest.mark.parametrize(
    ("parameters", "messages"),
    [
        ({"model.temperature": {"values": [0.1, "warm"]}}, ["model.temperature must be .*, got 'warm'"]),
        ({"model.temperature": {"values": [0.1, 0]}}, ["model.temperature must be greater than 0, got 0"]),
        ({"data.batch_size": {"min": 64.0, "max": 128.5}}, ["data.batch_size must be a whole number.*, got 64.0"]),
        ({"data.batch_size": {"min": 0, "max": 128}}, ["data.batch_size must be 1 or more, got 0"]),
        ({"seed": {"values": [0, "one"]}}, ["seed must be a whole number.*, got 'one'"]),
        ({"encoder.widths": {"values": ["[8,16]", "[8,wide]"]}}, ['encoder.widths must be .*, got \\[8, "wide"\\]']),
        ({"trainer.compile": {"value": "maybe"}}, ["trainer.compile must be true or false, got 'maybe'"]),
        (
            {"model.optimizer.lr": {"values": ["fast"]}, "model.hidden_dim": {"values": [64, 2.5]}},
            ["model.optimizer.lr must be a number.*'fast'", "model.hidden_dim must be .*, got 2.5"],
        ),
    ],
)
def test_values_that_no_training_takes_are_refused_before_the_first(write, parameters, messages):
    search = {"method": "random", "parameters": parameters}
    with pytest.raises(ConfigError) as error:
        check(read_sweep(write(**search)))
    lines = [line for line in error.value.args if line]
    assert all(any(re.search(rf"^parameters\.{message}", line) for line in lines) for message in messages), lines


def test_values_that_a_training_takes_pass(write):
    parameters = GOOD["parameters"] | {"encoder.widths": {"values": ["[8,16]"]}, "model.loss": {"values": ["simple"]}}
    parameters |= {
        "trainer.gradient_clip_val": {"values": [None, 1]},
        "model.optimizer.weight_decay": {"values": ["1e-4"]},
    }
    check(read_sweep(write(parameters=parameters)))


def test_what_wandb_is_sent_is_the_file_again(write):
    sweep = read_sweep(write()).with_overrides(["model=mocov2"])
    sent = sweep.for_wandb()
    (sent,) = sent
    assert sent["parameters"]["model.temperature"] == GOOD["parameters"]["model.temperature"]
    assert sent["parameters"]["model.hidden_dim"] == {"value": 64}
    assert (sent["method"], sent["metric"], sent["run_cap"]) == ("random", GOOD["metric"], 5)
    overrides = ["data=digits", "trainer.max_epochs=2", "model=mocov2", "logger=wandb", "${args_no_hyphens}"]
    assert sent["command"] == ["${env}", "${interpreter}", "-m", "kindred", "train", *overrides]


def test_numbers_as_people_write_them(tmp_path):
    text = yaml.safe_dump({k: v for k, v in GOOD.items() if k != "parameters"})
    path = tmp_path / "mine.yaml"
    path.write_text(text + "parameters: {model.optimizer.lr: {values: [1e-3, 2.5E+1, null, true]}}\n")
    assert read_sweep(str(path)).parameters["model.optimizer.lr"]["values"] == [0.001, 25.0, None, True]
    assert as_overrides({"a": None, "b": True, "c": 0.001, "d": "x"}) == ["a=null", "b=true", "c=0.001", "d=x"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, "method is 'gird': choose grid, random, bayes"),
        ({"metric": {"name": "val/knn_top1"}}, "goal, maximize or minimize"),
        ({"metric": {"goal": "maximize"}}, "needs a name"),
        ({"run_cap": None}, "run_cap: method random needs the number"),
        ({"run_cap": 0}, "run_cap is 0"),
        ({"parameters": {}}, "parameters: needs at least one"),
        ({"parameters": {"seed": 3}}, "parameters.seed is 3"),
        ({"parameters": {"seed": {"values": []}}}, r"parameters.seed.values is \[\]"),
        ({"parameters": {"seed": {"values": [1, 1]}}}, "one of them is there twice"),
        ({"parameters": {"a": {"values": [[1, 2]]}}}, "list of numbers or texts"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "min < max"),
        ({"parameters": {"a": {"min": 1}}}, "min is 1 and max is None"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}}, "must be above 0"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "q_uniform"}}}, "a.q is None"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "normal"}}}, "'normal': choose categorical"),
        ({"method": "grid", "parameters": {"a": {"min": 0.1, "max": 1.0}}}, "a grid needs values"),
        ({"command": ["python", "train.py"]}, "it must run kindred train"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: no such key"),
        ({"command": [*GOOD["command"], "views=simclr"]}, "views=simclr: sweep mine varies views"),
    ],
)
def test_a_file_that_cannot_be_run(write, changes, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read_sweep(write(**changes))
    assert "mine.yaml" in str(raised.value)


def test_names_keys_and_values_that_do_not_exist(write):
    with pytest.raises(
        ConfigError,
        match=r"sweep=temprature: there is no .*Choices: .*label_free, methods, multicrop, .*, text_views, views",
    ):
        read_sweep("temprature")
    with pytest.raises(ConfigError, match=r"views=nothing: there is no configs/views/nothing.yaml"):
        check(read_sweep(write(parameters={"views": {"values": ["small", "nothing"]}})))
    with pytest.raises(ConfigError, match=r"model.queue_size: there is no such key"):
        check(read_sweep("queue").with_overrides(["model=simclr"]))
    with pytest.raises(ConfigError, match="seed=3: sweep temperature varies seed"):
        read_sweep("temperature").with_overrides(["seed=3"])


def test_the_digest_tells_sweeps_apart(write):
    one = read_sweep(write())
    assert one.digest() == read_sweep(write()).digest()
    assert len({one.digest(), one.with_overrides(["seed=1"]).digest(), read_sweep(write(run_cap=6)).digest()}) == 3
    # The metric says which training is best, and changes none of them.
    assert one.digest() == read_sweep(write(metric={"name": "train/loss", "goal": "minimize"})).digest()
