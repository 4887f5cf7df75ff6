"""An exported encoder gives the run's features, says what it is, and executes nothing when it is loaded."""

import hashlib
import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from children import in_child, resume
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import kindred
from kindred.commands.evaluate import main as evaluate
from kindred.commands.export import main
from kindred.config import ConfigError
from kindred.data.images.embedded import Digits
from kindred.encoders.convnet import ConvNet
from kindred.runs.exporting import export as module
from kindred.runs.exporting.export import export, load_encoder
from kindred.runs.exporting.model_card import FILES as ALL_FILES
from kindred.runs.exporting.model_card import card_weights
from kindred.runs.judging.origin import origin
from kindred.study.groups import is_outdated

FILES = {name: file for name, file in ALL_FILES.items() if name != "huggingface"}  # for which test_huggingface.py is


@pytest.fixture(scope="module")
def longer(run, tmp_path_factory):
    """A copy of the finished run that was trained for one epoch more."""
    directory = tmp_path_factory.mktemp("longer") / "run"
    shutil.copytree(run, directory)
    assert resume(directory, ["trainer.max_epochs=4"]) == 0
    return directory


@pytest.fixture(scope="module")
def copied(run, longer, tmp_path_factory):  # `longer` trains in a fork, which is to be before torch exports here
    """A copy of the finished run, exported in all three formats that are a file."""
    directory = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run, directory)
    for name in FILES:
        assert main(["--run", str(directory), "--format", name, "--license", "CC-BY-4.0"]) == 0
    return directory


def images(count):
    """uint8 [B, 1, 8, 8] of real digits."""
    return torch.from_numpy(np.array(Digits().load("test").array[:count]))


def expected(run, batch):
    """Features of the run's encoder on what its DataModule makes of uint8 images."""
    loaded = kindred.load_run(run)
    view = loaded.datamodule().views.normalize(batch / 255)
    with torch.inference_mode():
        return loaded.encoder(view)


def with_safetensors(path):
    return load_encoder(path)


def with_plain_torch(path):
    """As the model card says, without a line of ours but the architecture."""
    encoder, state = ConvNet(in_channels=1, widths=[8, 16]), load_file(path)
    mean, std = state.pop("mean"), state.pop("std")
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
    return lambda batch: encoder.eval()((batch - mean) / std)


def with_onnxruntime(path):
    session = onnxruntime.InferenceSession(path)
    return lambda batch: torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


def with_torch_export(path):
    return torch.export.load(path).module()


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    ("file", "load"),
    [
        ("encoder.safetensors", with_safetensors),
        ("encoder.safetensors", with_plain_torch),
        ("encoder.onnx", with_onnxruntime),
        ("encoder.pt2", with_torch_export),
    ],
)
def test_the_features_are_the_runs(copied, file, load, batch):
    with torch.no_grad():
        features = load(copied / "export" / file)(images(batch) / 255)
    torch.testing.assert_close(features, expected(copied, images(batch)), rtol=0, atol=1e-4)
    assert features.std(dim=1).min() > 1e-2  # something that could differ


def test_the_directory_holds_the_files_and_one_card(copied):
    assert {path.name for path in (copied / "export").iterdir()} == {*FILES.values(), "README.md"}
    assert not load_encoder(copied / "export" / "encoder.safetensors").training


def test_the_card(copied):
    text = (copied / "export" / "README.md").read_text()
    head = OmegaConf.create(text.split("---\n")[1])
    assert head.license == "CC-BY-4.0"
    assert "simclr" in head.tags
    summary = kindred.load_run(copied).summary
    for part in (
        "float32 [B, 1, 8, 8]",
        "[B, 16]",
        "kindred.encoders.convnet.ConvNet(in_channels=1, widths=[8, 16])",
        "temperature=0.",
        "| epochs | 3 |",
        "| batch size | 256 |",
        "| mean | [0.3047] |",
        f"| val/knn_top1 | {summary['val/knn_top1']:.3f} |",
        "interpolate(images, size=(8, 8)",
        *FILES.values(),
    ):
        assert part in text
    assert "test examples" not in text  # not evaluated


def test_the_card_has_the_figures_of_the_evaluation_and_no_licence_that_was_not_given(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    found = {"test_images": 359, "data": "digits", "test/linear_top1": 0.87654, "test/linear_val_top1": 0.7}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(found))
    path = export(kindred.load_run(tmp_path / "run"), "safetensors", tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "encoder.safetensors"
    text = (tmp_path / "elsewhere" / "README.md").read_text()
    assert "license: unknown\n" in text
    assert "On 359 test examples of digits" in text
    assert "| test/linear_top1 | 0.877 |" in text
    assert "linear_val_top1" not in text
    assert "encoder.onnx" not in text  # no such file beside it


def weights_in(path):
    """What a file says about the weights that it holds."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            said = file.metadata()
    elif path.suffix == ".onnx":
        said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    else:
        more = {"kindred.json": ""}
        torch.export.load(path, extra_files=more)
        said = json.loads(more["kindred.json"])
    return said["step"], said["checkpoint"]


def test_files_and_card_say_which_weights_they_are_of(copied):
    said = {weights_in(copied / "export" / file) for file in FILES.values()}
    step, checkpoint = said.pop()
    assert (said, step, len(checkpoint)) == (set(), "12", 64)
    assert card_weights(copied / "export" / "README.md") == {"step": 12, "checkpoint": checkpoint}
    assert f"of step 12, checkpoint {checkpoint[:12]} |" in (copied / "export" / "README.md").read_text()


def test_after_a_longer_training_nothing_of_the_old_weights_is_told_of_the_new(copied, longer, tmp_path, capfd):
    """Evaluated and exported after 3 epochs, then what a resume to 4 leaves, exported again."""
    directory = tmp_path / "run"
    shutil.copytree(copied, directory)
    assert in_child(lambda: evaluate(["--run", str(directory)])) == 0
    before = json.loads((directory / "evaluation.json").read_text())
    export(kindred.load_run(directory), "safetensors")  # of the same weights: the others stay
    assert {path.name for path in (directory / "export").iterdir()} == {*FILES.values(), "README.md"}
    assert "359 test examples" in (directory / "export" / "README.md").read_text()
    shutil.copytree(longer, directory, dirs_exist_ok=True)
    capfd.readouterr()

    export(kindred.load_run(directory), "safetensors")
    assert {path.name for path in (directory / "export").iterdir()} == {"encoder.safetensors", "README.md"}
    removed = capfd.readouterr().err.splitlines()
    assert [line.partition(", which was of other weights (step 12)")[0] for line in removed] == [
        f"removed: {directory / 'export' / name}" for name in ("encoder.onnx", "encoder.pt2")
    ]
    step, checkpoint = weights_in(directory / "export" / "encoder.safetensors")
    assert (step, checkpoint != before["checkpoint"]) == ("16", True)
    text = (directory / "export" / "README.md").read_text()
    assert "| epochs | 4 |" in text
    assert "not judged on test images; those of step 12 were" in text
    assert f"{before['test/linear_top1']:.3f} |" not in text.partition("At the end of training")[0]
    assert is_outdated(kindred.load_run(directory))
    assert in_child(lambda: evaluate(["--run", str(directory)])) == 0
    assert not is_outdated(kindred.load_run(directory))
    after = json.loads((directory / "evaluation.json").read_text())
    assert (after["step"], after["checkpoint"]) == (16, checkpoint)


def test_a_file_that_is_not_ours_is_neither_removed_nor_described(run, tmp_path):
    (tmp_path / "encoder.onnx").write_text("someone else's")
    (tmp_path / "README.md").write_text("# Something else\n")
    export(kindred.load_run(run), "safetensors", tmp_path)
    assert (tmp_path / "encoder.onnx").read_text() == "someone else's"
    assert "encoder.onnx" not in (tmp_path / "README.md").read_text()


def test_the_weights_digest_is_of_names_and_bytes(run):
    """Against hashlib over the checkpoint's tensors as numpy writes them."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(
            f"{name} {state[name].dtype} {tuple(state[name].shape)} ".encode() + state[name].numpy().tobytes()
        )
    assert origin(kindred.load_run(run)) == {"step": 12, "checkpoint": digest.hexdigest()}


def test_the_loading_lines_of_the_card_run(copied, monkeypatch):
    """Each block of code, as it stands."""
    batch = images(2)
    features = expected(copied, batch)
    monkeypatch.chdir(copied / "export")
    blocks = (copied / "export" / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 4
    for block in blocks:
        code = block.split("```")[0]
        names = {"images": (batch / 255).numpy() if "onnx" in code else batch / 255, "encoder": ConvNet(1, (8, 16))}
        with torch.no_grad():
            exec(code, names)
        np.testing.assert_allclose(np.asarray(names["features"]), features, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("stream", "words"), [(False, "shorter side to 64 pixels"), (True, "shorter side to 73 pixels")]
)
def test_the_card_says_how_folders_of_images_are_resized(run, tmp_path, stream, words):
    shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.data.image_size = 64
    config.data.source = {
        "_target_": "kindred.data.images.folder.ImageFolder", "root": "x", "image_size": 64, "channels": 1, "stream": stream,
        "mean": [0.5], "std": [0.2],
    }  # fmt: skip
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    export(kindred.load_run(tmp_path / "run"), "safetensors")
    assert f"{words}, then the central 64x64" in (tmp_path / "run" / "export" / "README.md").read_text()


def test_a_file_that_gives_other_features_is_not_left_behind(run, tmp_path, monkeypatch):
    def spoilt(encoder, *rest):
        read = safetensors(encoder, *rest)
        return lambda batch: read(batch) + 2e-4

    safetensors = module._safetensors
    monkeypatch.setattr(module, "_safetensors", spoilt)
    with pytest.raises(
        RuntimeError, match=r"encoder\.safetensors: features differ from the run's by 2\.0e-04, not 1e-04"
    ):
        export(kindred.load_run(run), "safetensors", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_packages_are_named(run, tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["--run", str(run), "--format", "onnx", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: --format onnx needs the package {package}: make setup, or pip install kindred[export]\n"


@pytest.mark.parametrize("place", ["encoder", "data.source"])
def test_a_class_that_is_not_on_the_list_is_not_built(run, tmp_path, capsys, place):
    shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, f"{place}._target_", "torch.utils.collect_env.run")
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    assert main(["--run", str(tmp_path / "run")]) == 1
    assert f"{place}._target_: 'torch.utils.collect_env.run'" in capsys.readouterr().err


def test_a_file_from_someone_else_builds_no_class_that_is_not_on_the_list(copied, tmp_path):
    path = tmp_path / "encoder.safetensors"
    state = load_file(copied / "export" / "encoder.safetensors")
    save_file(state, path, {"encoder": json.dumps({"_target_": "torch.utils.collect_env.run", "command": "true"})})
    with pytest.raises(ConfigError, match=r"'torch.utils.collect_env.run' of .* is not among .*trust="):
        load_encoder(path)
    save_file(state, path)
    with pytest.raises(ConfigError, match=r"its metadata does not say which encoder it holds"):
        load_encoder(path)


def test_an_encoder_of_ones_own_is_trusted_by_name(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = OmegaConf.load(run / "config.yaml")
    config.encoder._target_ = "test_export.OwnEncoder"
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    assert main(["--run", str(tmp_path / "run")]) == 1
    assert main(["--run", str(tmp_path / "run"), "--trust", "test_export.OwnEncoder"]) == 0
    loaded = load_encoder(tmp_path / "run" / "export" / "encoder.safetensors", trust=["test_export.OwnEncoder"])
    assert type(loaded.encoder) is OwnEncoder


class OwnEncoder(ConvNet):
    """Not on Kindred's list."""
