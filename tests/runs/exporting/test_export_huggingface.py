"""`--format huggingface`: timm and transformers make the same features of that folder, or one line says why not."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors import safe_open

import kindred
from kindred.commands.export import main
from kindred.data.images.embedded import Digits
from kindred.encoders.timm import timm_encoder
from kindred.runs.exporting.model_card import card_weights
from kindred.runs.run import build_module
from kindred.runs.starting_weights import load_encoder_weights

VIT = {"name": "vit_tiny_patch16_224", "options": {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 4}}
VIT = {"_target_": "kindred.encoders.timm.timm_encoder", "in_channels": 1, "image_size": 8, "pretrained": True, **VIT}
RESNET = {"_target_": "kindred.encoders.resnet.resnet", "name": "resnet18", "in_channels": 1, "small_images": False}


@pytest.fixture
def with_encoder(run, tmp_path):
    """A copy of the finished run that has another encoder, of which nobody has trained the weights."""

    def make(encoder):
        directory = tmp_path / "run"
        shutil.copytree(run, directory)
        config = OmegaConf.load(directory / "config.yaml")
        config.encoder = encoder
        OmegaConf.save(config, directory / "config.yaml")
        config.encoder = {**encoder, "pretrained": False} if "pretrained" in encoder else encoder
        torch.manual_seed(0)
        module = build_module(config)
        for name, buffer in module.encoder.named_buffers():
            if "running" in name:
                buffer.uniform_(*((-0.1, 0.1) if "mean" in name else (0.5, 1.5)))
        torch.save({"global_step": 12, "state_dict": module.state_dict()}, directory / "checkpoints" / "last.ckpt")
        return directory

    return make


def images(count=3):
    """float32 [B, 1, 8, 8] in [0, 1], of real digits."""
    return torch.from_numpy(np.array(Digits().load("test").array[:count])) / 255


@pytest.mark.parametrize(
    "encoder",
    [
        VIT,
        RESNET,
        *(
            pytest.param(encoder, marks=pytest.mark.slow)
            for encoder in (
                VIT | {"name": "mobilenetv3_small_050", "options": None},
                *(RESNET | {"name": name} for name in ("resnet34", "resnet50", "resnext50_32x4d")),
            )
        ),
    ],
    ids=lambda encoder: encoder["name"],
)
def test_timm_and_transformers_make_the_features_of_the_run(encoder, with_encoder, monkeypatch, capsys):
    directory = with_encoder(encoder)
    assert main(["--run", str(directory), "--format", "huggingface"]) == 0
    folder = directory / "export" / "huggingface"
    assert str(folder / "model.safetensors") in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}

    run = kindred.load_run(directory)
    raw = images()
    normalised = run.datamodule().views.normalize(raw)
    with torch.no_grad():
        expected = run.encoder(normalised)
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        torch.testing.assert_close(loaded(normalised), expected, rtol=0, atol=1e-5)
    assert expected.std(dim=0).max() > 1e-4  # something that could differ
    known = loaded.pretrained_cfg
    assert [list(known[key]) for key in ("mean", "std", "input_size")] == [[0.3047], [0.3754], [1, 8, 8]]
    assert not {"tag", "license"} & json.loads((folder / "config.json").read_text())["pretrained_cfg"].keys()
    with safe_open(folder / "model.safetensors", "pt") as file:
        said = file.metadata()
    assert card_weights(folder / "README.md") == {"step": 12, "checkpoint": said["checkpoint"]}

    monkeypatch.chdir(folder)
    given = {"images": raw}
    for block in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        if "transformers" in block:
            pytest.importorskip("transformers")
        with torch.no_grad():
            exec(block, given)
        torch.testing.assert_close(given.pop("features"), expected, rtol=0, atol=1e-5)


def test_the_weights_start_another_run(with_encoder):
    directory = with_encoder(VIT)
    assert main(["--run", str(directory), "--format", "huggingface"]) == 0
    fresh = timm_encoder(VIT["name"], 1, 8, options=VIT["options"])
    line = load_encoder_weights(fresh, directory / "export" / "huggingface" / "model.safetensors")
    assert line.endswith("nothing left out")
    trained = kindred.load_run(directory).encoder.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("encoder", [None, RESNET | {"small_images": True}], ids=["convnet", "3x3 stem"])
def test_what_neither_has_is_refused_with_what_can(encoder, run, with_encoder, tmp_path, capsys):
    directory = run if encoder is None else with_encoder(encoder)
    assert main(["--run", str(directory), "--format", "huggingface", "--output", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    target = "kindred.encoders.convnet.ConvNet" if encoder is None else RESNET["_target_"]
    assert line.startswith(
        f"error: --format huggingface: neither timm nor transformers has an encoder like {target} of "
    )
    assert "ENCODER=timm" in line
    assert not os.path.exists(tmp_path / "out")


def test_without_timm_one_line_says_which_extra(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["--run", str(run), "--format", "huggingface", "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error == "error: --format huggingface needs the package timm: make setup, or pip install kindred[timm]\n"
    assert not os.path.exists(tmp_path / "out")
