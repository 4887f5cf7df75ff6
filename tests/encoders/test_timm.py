"""timm's models: theirs to the bit, for the data's images, and trained, stopped, read back and exported like any encoder."""

import pickle
import sys

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from children import At, add_callback, in_child, kill_self
from outcomes import assert_same, outcome

import kindred
from kindred.commands.export import main as export
from kindred.commands.train import main
from kindred.config import ConfigError, build, check, compose
from kindred.data.images.embedded import Photos
from kindred.encoders.timm import timm_encoder
from kindred.errors import AbsentError
from kindred.runs.exporting.export import load_encoder
from kindred.runs.judging.evaluate import untrained_encoder

VIT = "vit_tiny_patch16_224"
SMALL = {"depth": 2, "embed_dim": 24, "num_heads": 2}


def test_it_is_timms_without_its_classifier():
    encoder = timm_encoder(VIT, in_channels=1, image_size=32, options=SMALL)
    reference = timm.create_model(VIT, num_classes=7, in_chans=1, img_size=32, **SMALL)
    reference.load_state_dict(encoder.state_dict() | {k: torch.rand(s) for k, s in HEAD.items()})
    images = torch.rand(3, 1, 32, 32)
    assert encoder.training
    expected = reference.eval().forward_head(reference.forward_features(images), pre_logits=True)
    torch.testing.assert_close(encoder.eval()(images), expected, rtol=0, atol=0)


HEAD = {"head.weight": (7, 24), "head.bias": (7,)}


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [("mobilenetv3_small_050", 32, 1024), ("resnet18", 8, 512), ("swin_tiny_patch4_window7_224", 64, 768)],
)
def test_the_features_are_counted_where_they_come_out(name, size, features):
    """MobileNetV3 has a layer after the pooling, of which its own num_features knows nothing."""
    encoder = timm_encoder(name, image_size=size)
    assert encoder.num_features == features
    assert encoder.eval()(torch.rand(2, 3, size, size)).shape == (2, features)


def test_the_yaml_takes_size_and_channels_from_the_data():
    config = compose(["encoder=timm", f"encoder.name={VIT}", "data=fashionmnist", "+encoder.options.depth=1"])
    config.data.image_size = 32
    check(config)
    encoder = build(config, "encoder")
    assert (encoder.patch_embed.img_size, encoder.patch_embed.proj.in_channels) == ((32, 32), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit_smal_patch16_224"}, r"^encoder\.name: 'vit_smal_patch16_224' is no .*mean vit_small_patch16_224,"),
        ({"name": "hf-hub:user/model"}, r"^encoder\.name: 'hf-hub:user/model' is no model of timm's\. All of them: "),
        ({"name": f"{VIT}.dinosaur"}, r"^encoder\.name: timm has no weights 'dinosaur' of .* it has augreg_in21k"),
        ({"name": VIT, "image_size": 30}, r"^data\.image_size is 30: .* 1 patches of 16 pixels; give a multiple of 16$"),
        ({"name": VIT, "image_size": 8}, r"^encoder\.name: timm's .* cannot be built for data\.image_size=8"),
        ({"name": "resnet18", "options": {"drop": 1}}, r"encoder\.options=\{'drop': 1\} \(TypeError: .*'drop'\)$"),
        ({"name": "resnet18", "options": {"num_classes": 5}}, r"^encoder\.options\.num_classes: is said by"),
        ({"name": "resnet18", "options": {"global_pool": ""}}, r"gives \[1, 512, 7, 7\] .*not features"),
        ({"name": "resnet18", "pretrained": "no.pt"}, r"^encoder\.pretrained: no\.pt: there is no such file"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line(settings, message):
    with pytest.raises((ConfigError, AbsentError), match=message) as caught:
        timm_encoder(**settings)
    assert str(caught.value).isprintable()


def test_without_timm_one_line_says_which_extra_and_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.chdir(tmp_path)
    assert main(["encoder=timm", "trainer=cpu"]) == 1
    assert capsys.readouterr().err == (
        "error: encoder=timm needs the package timm: make setup, or pip install kindred[timm]\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_from_a_file_are_fitted_to_channels_and_size(tmp_path):
    """timm sums the weights of three channels for one, and resizes position embeddings."""
    source = timm.create_model(VIT, img_size=224, **SMALL)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    path = str(tmp_path / "vit.pth")
    grey = timm_encoder(VIT, in_channels=1, image_size=224, pretrained=path, options=SMALL).eval()
    images = torch.rand(2, 1, 224, 224)
    expected = source.eval().forward_head(source.forward_features(images.expand(-1, 3, -1, -1)), pre_logits=True)
    torch.testing.assert_close(grey(images), expected, rtol=1e-4, atol=1e-4)
    small = timm_encoder(VIT, image_size=32, pretrained=path, options=SMALL)
    assert small.pos_embed.shape == (1, 1 + 2 * 2, 24)
    for name, value in small.state_dict().items():
        assert name == "pos_embed" or torch.equal(value, source.state_dict()[name])


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_holds_code_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "vit.pth").write_bytes(pickle.dumps({"a": Code()}))
    with pytest.raises(ConfigError, match=r"^[^\n]*weights_only=True blocked[^\n]*$"):
        timm_encoder(VIT, image_size=32, pretrained=str(tmp_path / "vit.pth"))
    assert "executed" not in capsys.readouterr().out


TRAIN = [
    *("data=photos", "trainer=cpu", "encoder=timm", f"encoder.name={VIT}"),
    "encoder.options={depth: 2, embed_dim: 24, num_heads: 2, drop_path_rate: 0.2}",
    *("data.train_size=512", "data.batch_size=128", "model.hidden_dim=32", "model.optimizer.lr=0.1"),
    *("trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1", "trainer.log_every_n_steps=1"),
    *("callbacks.checkpoints.every_n_steps=2", "trainer.enable_progress_bar=false", "~callbacks.figures"),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["simclr", "mocov2"])
def test_a_vit_trains_goes_on_to_the_bit_and_is_read_back_and_exported(model, tmp_path, monkeypatch):
    torch.save(timm.create_model(VIT, img_size=32, **SMALL).state_dict(), tmp_path / "start.pth")
    words = [*TRAIN, f"model={model}", f"encoder.pretrained={tmp_path / 'start.pth'}"]
    assert in_child(lambda: main([*words, f"run_dir={tmp_path / 'run'}"]), 300) == 0

    def killed():
        add_callback(At(5, kill_self))
        return main([*words, f"run_dir={tmp_path / 'cut'}"])

    assert in_child(killed, 300) != 0
    (tmp_path / "start.pth").unlink()  # a run holds its weights itself
    assert in_child(lambda: main([f"resume={tmp_path / 'cut'}"]), 300) == 0
    assert_same(outcome(tmp_path / "cut"), outcome(tmp_path / "run"))

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody-else"))
    run = kindred.load_run(tmp_path / "run")
    assert untrained_encoder(run) is None
    assert run.summary["val/linear_top1"] > run.summary["untrained/linear_top1"]
    images = torch.from_numpy(np.array(Photos().load("test").array[:3])) / 255
    with torch.no_grad():
        features = run.encoder(run.datamodule().views.normalize(images))
    assert features.shape == (3, 24)
    for name in ("safetensors", "onnx"):
        assert export(["--run", str(tmp_path / "run"), "--format", name]) == 0
    with torch.no_grad():
        found = load_encoder(tmp_path / "run" / "export" / "encoder.safetensors")(images)
    torch.testing.assert_close(found, features, rtol=0, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "encoder.onnx")
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(found, features, rtol=0, atol=1e-4)
