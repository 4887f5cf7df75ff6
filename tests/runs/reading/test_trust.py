"""Nothing of someone else's executes: not from a run directory, not from an exported file, not on resume."""

import json
import sys
from copy import deepcopy

import pytest
import yaml
from children import resume, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning import Callback
from safetensors.torch import save_file

import kindred
from kindred.commands.train import main as train
from kindred.config import ConfigError
from kindred.runs.exporting.export import load_encoder
from kindred.runs.reading.signature import is_signed, signed, unsigned
from kindred.runs.reading.trust import PARTS, check_classes, read_settings

EVIL = "evil_module.Thing"
CONVNET = {"_target_": "kindred.encoders.convnet.ConvNet", "in_channels": 1}
HUB = {"_target_": "torch.hub.load", "repo_or_dir": "hub", "model": "m", "source": "local"}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module whose import is noticed; the names of what was executed."""
    executed = []
    monkeypatch.setattr(sys, "executed", executed, raising=False)
    (tmp_path / "evil_module.py").write_text("import sys\nsys.executed.append('import')\nThing = print\n")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text("import sys\nsys.executed.append('hub')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "s3cret")
    yield executed
    sys.modules.pop("evil_module", None)


@pytest.fixture
def foreign(run, tmp_path):
    """A run of someone else's: `foreign(change)` is its directory after `change(settings)`."""

    def write(change=lambda config: None, name="foreign"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "checkpoints").symlink_to(run / "checkpoints")
        (directory / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes())
        config = yaml.safe_load((run / "config.yaml").read_text())
        change(config)
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        return directory

    return write


def refused(call, *arguments, **options):
    """The one line with which a call refuses."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **options)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1500
    return line


def test_an_interpolation_brings_in_no_class(evil, foreign):
    def change(config):
        config["evil"] = HUB
        config["encoder"]["widths"] = "${evil}"

    run = kindred.load_run(foreign(change))
    for read in (lambda: run.encoder, run.datamodule, lambda: run.config):
        assert "nothing to fill in" in refused(read)
    assert not evil


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "${oc.decode:'1'}", "${oc.create:{a:1}}", "a ${seed} b", "???"])
def test_no_resolver_is_asked(evil, foreign, value):
    directory = foreign(lambda config: config.update(init_from=value))
    assert "s3cret" not in refused(lambda: kindred.load_run(directory).config)


@pytest.mark.parametrize(
    "encoder",
    [
        HUB,
        CONVNET | {"widths": "${oc.create:{_target_:evil_module.Thing}}"},
        CONVNET | {"widths": {"_target_": EVIL}},
        {"_target_": "kindred.models.simclr.SimCLR"},  # known, at another place
        [[[[{"_target_": EVIL}]]]],
        "${oc.env:SECRET}",
    ],
    ids=str,
)  # fmt: skip
def test_an_exported_file_executes_nothing(evil, run, tmp_path, encoder):
    path = tmp_path / "x.safetensors"
    save_file(kindred.load_run(run).encoder.state_dict(), path, {"encoder": json.dumps(encoder)})
    assert "s3cret" not in refused(load_encoder, path)
    assert not evil


def test_a_file_that_is_no_safetensors_is_one_line(run, tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"", b"\xff" * 100, b"\x10" + 7 * b"\0" + b'{"__metadata__":'):
        path.write_bytes(content)
        assert "no safetensors file" in refused(load_encoder, path)
    save_file(kindred.load_run(run).encoder.state_dict(), path, {"encoder": "[" * 100_000})
    refused(load_encoder, path)


@pytest.mark.parametrize(
    "place", ["trainer", "callbacks.knn", "callbacks.mine", "logger.mine", "model.optimizer", "data.source"]
)
def test_a_resume_builds_nothing_of_someone_elses(evil, foreign, place, capsys):
    def change(config):
        part, _, name = place.partition(".")
        node = config[part].setdefault(name, {}) if name else config[part]
        node["_target_"] = EVIL

    directory = foreign(change)
    assert train([f"resume={directory}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {place}._target_: {EVIL!r} of ")
    assert error.count("\n") == 1
    assert "trust=[" in error
    assert not evil


def test_classes_of_ones_own_are_resumed_by_trust_which_is_kept(tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert start(run, ["+callbacks.watch._target_=test_trust.Watch", "trainer.max_epochs=1"]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody-else"))
    (run / "watched").unlink()
    assert resume(run, ["trainer.max_epochs=2"]) == 1
    assert not (run / "watched").exists()
    assert resume(run, ["trainer.max_epochs=2", "trust=[test_trust.Watch]"]) == 0
    assert (run / "watched").exists()
    assert resume(run, ["trainer.max_epochs=3"]) == 0  # now it is a run of theirs
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "third"))
    assert resume(run, ["trainer.max_epochs=4"]) == 1


def test_trust_without_a_resume_is_an_error(capsys):
    assert train(["data=digits", "trust=[test_trust.Watch]"]) == 1
    assert "trust=test_trust.Watch: it is for resume=" in capsys.readouterr().err


class Watch(Callback):
    """Not on Kindred's list."""

    def on_fit_start(self, trainer, module):
        with open(f"{trainer.default_root_dir}/watched", "w"):
            pass


def test_what_this_user_started_is_theirs_until_it_is_changed(run, tmp_path):
    text = (run / "config.yaml").read_text()
    assert is_signed(text)
    assert unsigned(text) + text.removeprefix(unsigned(text)) == text
    assert not is_signed(unsigned(text))
    changed = text.replace("kindred.encoders.convnet.ConvNet", EVIL)
    assert not is_signed(changed)
    for number, content in enumerate((changed, f"{text}evil: 1\n", f"{unsigned(changed)}# signed \n")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.yaml").write_text(content)
        if "Thing" in content:
            assert EVIL in refused(lambda: kindred.load_run(tmp_path / str(number)).module)  # noqa: B023
        assert not is_signed(content)


def test_a_run_of_ones_own_classes_is_read_back_without_a_word(tmp_path, monkeypatch):
    own = ["encoder._target_=test_trust.own_encoder"]
    assert start(tmp_path / "run", [*own, "trainer.max_epochs=1"]) == 0
    assert kindred.load_run(tmp_path / "run").encoder.num_features == 16
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    assert "test_trust.own_encoder" in refused(lambda: kindred.load_run(tmp_path / "run").encoder)


def own_encoder(**options):
    from kindred.encoders.convnet import ConvNet

    return ConvNet(**options)


def test_without_a_home_nothing_is_signed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert signed("a: 1\n") == "a: 1\n"
    assert not is_signed("a: 1\n# signed 00\n")


def test_the_key_is_for_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    text = signed("a: 1\n")
    key = tmp_path / "kindred" / "key"
    assert key.stat().st_mode & 0o077 == 0
    assert key.read_bytes().hex() not in text
    assert signed("a: 1\n") == text
    assert [path.name for path in key.parent.iterdir()] == ["key"]


def nodes(config, path=()):
    """The path of every node."""
    yield path
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, dict | list):
            yield from nodes(value, (*path, key))
        else:
            yield (*path, key)


def put(config, path, attack):
    """`config` with `attack` merged into the node at `path`, or in its place."""
    config, *outer = deepcopy(config), *path
    holder = {"": config}
    for key in ("", *path[:-1]) if path else ():
        holder = holder[key]
    last = path[-1] if path else ""
    merges = isinstance(attack, dict) and isinstance(holder[last], dict)
    holder[last] = {**holder[last], **attack} if merges else attack
    return config if outer else holder[""]


ATTACKS = [
    {"_target_": EVIL},
    {"_target_": ["evil_module", "Thing"]},
    {"_target_": "kindred.callbacks.guard.Guard", "_partial_": False},
    {"_args_": [EVIL]},
    {"_recursive_": False},
    {"_partial_": 1},
    {"_convert_": "object"},
    {"_mode_": "x"},
    {"${seed}": 1},
    {"a\nb\x1b[31m": {"_target_": EVIL, "_args_": []}},
    {1: 2},
    "${seed}",
    "${oc.env:SECRET}",
    "${.}",
    "x${evil}",
    "???",
    "TAG !!python/object/apply:evil_module.Thing []",
    "TAG !!python/name:evil_module.Thing ''",
    "TAG !!python/module:evil_module ''",
    "TAG !!timestamp '2020-01-01'",
    "TAG !!binary aGVsbG8=",
    "TAG !!set {a, b}",
    "TAG " + "[" * 400 + "]" * 400,
    "TAG [" + "0, " * 30_000 + "0]",
    "TAG &a [*a, *a]",
    "TAG " + "[&a0 [x], " + ", ".join(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)) + "]",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_node_of_a_saved_config_is_a_way_in(evil, run, data):
    config = yaml.safe_load((run / "config.yaml").read_text())
    path = data.draw(st.sampled_from([path for path in nodes(config) if path]))
    attack = data.draw(st.sampled_from(ATTACKS))
    text = yaml.safe_dump(put(config, path, attack), width=10**9)
    if isinstance(attack, str) and attack.startswith("TAG "):
        written = yaml.safe_dump(attack, width=10**9).removesuffix("...\n").strip()
        assert written in text
        text = text.replace(written, attack.removeprefix("TAG "))
    refused(lambda: check_classes(read_settings(text, "config.yaml"), PARTS, "config.yaml"))
    assert not evil


@settings(max_examples=100, deadline=None)
@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_configuration_or_one_line(text):
    fault = None
    try:
        read_settings(text, "config.yaml")
    except ConfigError as error:
        fault = str(error)
    assert fault is None or fault.isprintable()
