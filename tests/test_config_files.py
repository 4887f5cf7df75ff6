"""Where the files of the configuration come from: a working directory's own first, then Kindred's."""

import pytest

from kindred.commands.train import choices_and_keys
from kindred.config import ConfigError, compose
from kindred.config_files import CONFIGS, config_directories, config_names, default_choices, find_config, own_configs
from kindred.study.sweeps.reading import read_sweep
from kindred.study.sweeps.rows import published

SWEEP = "method: grid\nmetric: {name: val/knn_top1, goal: maximize}\nparameters: {seed: {values: [0, 1]}}\n"

METHODS = (
    *(
        "cpc",
        "distilled",
        "finetuned",
        "instdisc",
        "mocov2",
        "nnclr",
        "simclr",
        "simclrv2",
        "simclrv2_memory",
        "supcon",
    ),
)


@pytest.fixture(params=["own", "o'wn, [x] ${y} \\dir"])
def own(request, tmp_path, monkeypatch):
    """configs/ in the working directory, whose name may be any; a function writes files into it."""
    configs = tmp_path / request.param / "configs"
    configs.mkdir(parents=True)
    monkeypatch.chdir(configs.parent)

    def write(name, text):
        path = configs / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_own_files_are_found_and_may_use_those_of_the_package(own):
    own("model/mine", "defaults: [nnclr]\ntemperature: 0.33\n")
    own("model/child", "defaults: [mine]\nwarmup_epochs: 7\n")
    own("experiment/all", "# @package _global_\ndefaults: [override /model: child, override /data: digits]\nseed: 5\n")
    config = compose(["experiment=all"])
    assert config.model._target_ == "kindred.models.nnclr.NNCLR"
    assert (config.model.temperature, config.model.warmup_epochs, config.seed) == (0.33, 7, 5)
    assert (config.choices.model, config.choices.data, config.choices.views) == ("child", "digits", "digits")


def test_own_files_come_first(own):
    before = compose(["model=simclr", "data=photos"])
    own("recipe/photos/simclr", "# @package _global_\nmodel: {temperature: 0.77}\n")
    own("train", find_config("train").read_text().replace("seed: 0", "seed: 3"))
    config = compose(["model=simclr", "data=photos"])
    assert (before.model.temperature != 0.77, before.seed) == (True, 0)
    assert (config.model.temperature, config.seed) == (0.77, 3)
    assert compose(["data=digits"]).choices.views == "digits"  # the others are still there


def test_own_sweeps_and_published_values_are_found(own):
    own("sweep/temperature", SWEEP)
    own("published/temperature", "source: me\ncolumns: [seed, accuracy]\nrows: [[0, 0.5]]\n")
    sweep = read_sweep("temperature")
    assert list(sweep.parameters) == ["seed"]
    assert published(sweep) == ("me", [{"seed": 0, "accuracy": 0.5}])
    assert "model.temperature" in read_sweep("wang_liu").parameters


def test_choices_are_those_of_both(own):
    own("model/mine", "defaults: [nnclr]\n")
    own("sweep/mine", SWEEP)
    assert config_names("model") == [*METHODS[:4], "mine", *METHODS[4:]]
    with pytest.raises(
        ConfigError,
        match=r"did you mean 'mine'\? Choices: cpc, distilled, finetuned, instdisc, mine, mocov2, .*, supcon$",
    ):
        compose(["model=mien"])
    with pytest.raises(
        ConfigError,
        match=r"Choices: .*, label_free, methods, mine, multicrop, .*, temperature, text_views, views, wang_liu$",
    ):
        read_sweep("mien")
    assert f"model=        {' '.join(METHODS[:4])} [mine] {' '.join(METHODS[4:])}\n" in choices_and_keys(["model=mine"])


def test_a_file_that_is_no_yaml_is_named_in_one_line(own):
    own("model/mine", "temperature: [0.1\nx: 1\n")
    with pytest.raises(ConfigError, match=r"^[^\n]*mine\.yaml.*line 2[^\n]*$"):
        compose(["model=mine"])


def test_in_a_clone_there_are_no_own_ones(monkeypatch, tmp_path):
    monkeypatch.chdir(CONFIGS.parent)
    assert own_configs() is None
    assert config_directories() == [CONFIGS]
    (tmp_path / "link").symlink_to(CONFIGS.parent)
    monkeypatch.chdir(tmp_path / "link")
    assert own_configs() is None
    monkeypatch.chdir(tmp_path)
    assert own_configs() is None
    (tmp_path / "configs").mkdir()
    assert own_configs() == tmp_path / "configs"


def test_groups_and_default_choices_are_those_that_hydra_composes():
    config = compose()
    defaults = default_choices()
    assert list(defaults)[:4] == ["callbacks", "encoder", "views", "model"]
    assert {group: defaults[group] for group in config.choices} == dict(config.choices)


def test_other_users_of_hydra_in_this_process_search_as_they_did(own, tmp_path):
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    own("other", "mine: true\n")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "other.yaml").write_text("mine: false\n")
    compose()
    with initialize_config_dir(str(tmp_path / "theirs"), version_base="1.3"):
        assert hydra_compose("other").mine is False
