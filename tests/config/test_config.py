"""What a person may type, and what an error says."""

import inspect

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from kindred.config import ConfigError, build, check, compose, fitted, resolve
from kindred.config_files import CONFIGS
from kindred.data.folders import layout
from kindred.runs.reading.trust import PARTS, TRUSTED, check_classes, read_settings
from kindred.runs.writing.directory import saved_form


def names(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def test_defaults_are_resolved_to_final_numbers():
    config = compose(["data.batch_size=512"])
    check(config)
    assert config.model.optimizer.lr == pytest.approx(0.06 * 512 / 128)
    assert config.choices.data == "photos"
    assert "${" not in OmegaConf.to_yaml(config)


def test_learning_rate_rules_see_accumulated_batches():
    config = compose(["trainer.accumulate_grad_batches=4", "data.batch_size=128", "data=cifar10"])
    assert config.model.optimizer.lr == pytest.approx(0.06 * 4)


def test_the_data_set_chooses_encoder_and_views_unless_they_are_given():
    assert compose(["data=cifar10"]).choices.encoder == "resnet18"
    assert compose(["data=cifar10"]).choices.views == "small"
    assert compose(["data=cifar10", "encoder=convnet"]).choices.encoder == "convnet"
    assert compose(["data=photos", "encoder=resnet50"]).encoder.name == "resnet50"
    assert compose(["data=cifar10", "views=crop_only"]).choices.views == "crop_only"


# What `kindred finetune` and `kindred distill` fill in.
OWN_DATA = {  # what one's own data must say
    **{data: ["data.source.root=somewhere"] for data in ("imagefolder", "imagenet", "textfolder", "audiofolder")},
    "huggingface": ["data.source.path=somewhere"],
    "arrays": ["data.source.path=somewhere", "data.length=64", "data.channels=2"],
}
NEEDED = {
    "finetuned": ["model.classes=10"],
    "distilled": ["model.classes=10", "model.teacher={_target_: kindred.encoders.convnet.ConvNet}"],
}


@pytest.mark.parametrize("data", names("data"))
@pytest.mark.parametrize("model", names("model"))
def test_every_model_on_every_data_set_fits_the_signatures(data, model):
    check(compose([f"model={model}", f"data={data}", *OWN_DATA.get(data, []), *NEEDED.get(model, [])]))


@pytest.mark.parametrize("group", ["encoder", "views", "trainer", "logger", "callbacks"])
def test_every_file_of_a_group_fits_the_signatures(group):
    for name in names(group):
        check(compose([f"{group}={name}", *(["encoder.name=somewhere"] if name == "pretrained" else [])]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.temprature=0.2", r"model\.temprature.*did you mean 'temperature'.*projection_dim"),
        ("data.bach_size=2", r"data\.bach_size.*did you mean 'batch_size'"),
        ("sed=1", r"sed: there is no such key; did you mean 'seed'"),
        ("model=simcrl", r"model=simcrl: .*did you mean 'simclr'"),
        ("data=foo", r"data=foo: .*Choices: arrays, audiofolder, cifar10.*photos"),
        ("experiment=foo", r"experiment=foo: there is no configs/experiment/foo.yaml"),
        ("modle=simclr", r"modle"),
        ("~model.nothing", r"nothing"),
    ],
)
def test_what_does_not_exist_is_an_error_that_lists_what_does(override, message):
    with pytest.raises(ConfigError, match=message):
        check(compose([override]))


def test_an_unknown_key_in_a_file_is_an_error():
    config = compose(["+model.tau=0.2"])
    with pytest.raises(ConfigError, match=r"model\.tau: kindred\.models\.simclr\.SimCLR takes no 'tau'.*temperature"):
        check(config)
    config = compose()
    OmegaConf.set_struct(config, False)
    config.views.views[1].blurr = 0.5
    with pytest.raises(ConfigError, match=r"views\.views\.1\.blurr: .*did you mean 'blur'"):
        check(config)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match=r"data\.source\.root: needs a value"):
        check(compose(["data=imagefolder"]))


def test_a_class_that_cannot_be_imported_is_named():
    with pytest.raises(ConfigError, match=r"^encoder\._target_: 'no\.such\.Thing' cannot be imported[^\n]*$"):
        check(compose(["encoder._target_=no.such.Thing"]))


@pytest.mark.parametrize(
    ("key", "override", "message"),
    [
        ("model", "model.temperature=0", "model.temperature must be greater than 0, got 0"),
        ("model", "model.temperature=-1", "got -1"),
        ("model", "model.warmup_epochs=-1", "model.warmup_epochs must be 0 or more, got -1"),
        ("encoder", ["encoder=resnet18", "encoder.name=resnet17"], "resnet17.*resnet18"),
        ("callbacks", "callbacks.knn.k=0", "callbacks.knn.k must be 1 or more, got 0"),
        ("callbacks", "callbacks.knn.temperature=0", "callbacks.knn.temperature must be greater than 0, got 0"),
        ("callbacks", "callbacks.checkpoints.every_n_steps=0", "callbacks.checkpoints.every_n_steps must be 1 or more"),
    ],
)
def test_what_cannot_work_is_refused_before_or_by_the_constructor(key, override, message):
    config = compose([override] if isinstance(override, str) else override)

    def check_and_build():
        check(config)
        build(config, key, **({"encoder": build(config, "encoder")} if key == "model" else {}))

    with pytest.raises(ConfigError, match=message):
        check_and_build()


def test_the_classes_that_a_run_may_name_exist_and_are_classes_or_known_functions():
    for target in frozenset().union(*TRUSTED.values()):
        thing = get_object(target)
        known = ("kindred.encoders.resnet.resnet", "kindred.encoders.timm.timm_encoder")
        assert inspect.isclass(thing) or target in known


@pytest.mark.parametrize(
    "override",
    [
        *(f"{group}={name}" for group in ("data", "model", "encoder", "views", "trainer") for name in names(group)),
        *("logger=wandb", "callbacks=hardness", "temperature=cosine", "temperature=learnable"),
        *(f"experiment={name}" for name in names("experiment")),
    ],
)
def test_every_shipped_choice_can_be_read_back_and_built(override):
    config = compose([override, *OWN_DATA.get(override.removeprefix("data="), [])])
    for missing in OmegaConf.missing_keys(config):
        OmegaConf.update(config, missing, "somewhere")
    OmegaConf.resolve(config)
    settings = read_settings(saved_form(config), "config.yaml")
    check_classes(settings, PARTS, "config.yaml")
    assert OmegaConf.create(settings) == OmegaConf.merge(config, {"resume": None})


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_fits_the_signatures_and_says_its_command_time_and_accuracy(name):
    check(compose([f"experiment={name}"]))
    command, time, accuracy = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()[1:4]
    assert command.startswith("# make train")
    assert f"experiment={name}" in command
    assert time.startswith("# time: ")
    assert accuracy.startswith("# expected: ")


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipe").glob("*/*.yaml")), ids=str)
def test_every_recipe_is_picked_and_says_its_command_time_and_accuracy(path):
    config = compose([f"data={path.parent.name}", f"model={path.stem}"])
    recipe = OmegaConf.load(path)
    assert OmegaConf.merge(config, recipe) == config
    command, time, accuracy = path.read_text().splitlines()[1:4]
    assert command.startswith(f"# make train MODEL={path.stem}")
    assert time.startswith("# time: ")
    assert accuracy.startswith("# accuracy: ")


def fits(root, *overrides):
    """data.batch_size and callbacks.knn.k of a resolved configuration for images of one's own."""
    config = compose(["data=imagefolder", f"data.source.root={root}", *overrides])
    resolve(config)
    return config.data.batch_size, config.callbacks.knn.k


@pytest.mark.parametrize(
    ("files", "overrides", "expected"),
    [
        (1, (), (256, 200)),  # nobody can tell how many are held out of one: the data set says what is wrong
        (6, (), (2, 2)),
        (210, (), (32, 16)),  # 189 are left of 210: five batches of 32, and a tenth are 18
        (210, ("data.train_size=100",), (16, 8)),
        (210, ("data.val_size=0",), (32, 16)),
        (210, ("data.val_size=170",), (8, 4)),
        (284, (), (64, 16)),  # 256 are left: four batches of 64
        (283, (), (32, 16)),  # 255 are left
        (1138, (), (256, 64)),  # 1024
        (1135, (), (128, 64)),  # 1021
        (2223, (), (256, 200)),  # 2001
        (210, ("data.batch_size=100", "callbacks.knn.k=20"), (100, 20)),
    ],
)
def test_a_batch_and_a_k_that_fit_few_images(tmp_path, files, overrides, expected):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number in range(files):
        (tmp_path / "train" / "cat" / f"{number}.png").touch()  # none is read for that
    assert fits(tmp_path, *overrides) == expected


def test_what_fits_is_as_before_where_nobody_can_tell(tmp_path):
    assert fits(tmp_path / "nowhere") == (256, 200)
    config = compose(["data=imagefolder", "model=simclr"])
    assert (config.data.batch_size, config.model.optimizer.lr) == (256, 0.12)  # which --help shows


def test_a_val_split_of_its_own_holds_nothing_out_of_train(tmp_path):
    for split, count in (("train", 128), ("val", 5)):
        (tmp_path / split / "cat").mkdir(parents=True)
        for number in range(count):
            (tmp_path / split / "cat" / f"{number}.png").touch()
    assert fits(tmp_path) == (32, 8)


def test_the_data_are_listed_once_and_anew_when_the_settings_are_others(tmp_path, monkeypatch):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number in range(210):
        (tmp_path / "train" / "cat" / f"{number}.png").touch()
    listed = []
    list_files = layout.list_files
    monkeypatch.setattr(layout, "list_files", lambda place, *how: listed.append(place) or list_files(place, *how))
    config = compose(["data=imagefolder", f"data.source.root={tmp_path}"])
    assert fitted(config) == {"data.batch_size": 256, "callbacks.knn.k": 200}
    assert (config.data.batch_size, config.callbacks.knn.k, config.data.batch_size) == (32, 16, 32)
    assert len(listed) == 1
    config.data.train_size = 30
    assert (config.data.batch_size, config.callbacks.knn.k) == (4, 2)
    resolve(config)
    assert fitted(config) == {}
