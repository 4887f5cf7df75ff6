"""`init_from` finds the encoder in files of other libraries, as those write them, and says what it took and what it left."""

import lightly.models
import lightly.models.modules
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from kindred.encoders.resnet import resnet
from kindred.encoders.timm import timm_encoder
from kindred.errors import ConfigError
from kindred.runs.starting_weights import load_encoder_weights

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def filled(module):
    """`module` with other running statistics than a new one's, in eval mode."""
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return module.eval()


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return filled(torchvision.models.resnet18(weights=None))


def features(source):
    headless = nn.Sequential(*list(source.children())[:-1], nn.Flatten())
    with torch.no_grad():
        return headless(IMAGES)


def other(seed=2):
    torch.manual_seed(seed)
    return filled(torchvision.models.resnet18(weights=None)).state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def body(source):
    return {name: value for name, value in source.state_dict().items() if not name.startswith("fc.")}


def lightning_file(state):
    """What Lightning writes beside the weights."""
    optimizer = [{"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}]
    return {"epoch": 3, "global_step": 12, "pytorch-lightning_version": "2.6", "state_dict": state} | {
        "optimizer_states": optimizer, "hyper_parameters": {"temperature": 0.1}, "loops": {}, "callbacks": {},
    }  # fmt: skip


def torchvision_file(source):
    return source.state_dict(), "; left out: fc.weight, fc.bias"


def without_counts(source):
    """As torchvision's were before torch 0.4.1, and FAIR's are."""
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    return state, "; left out: fc.weight, fc.bias"


def timm_checkpoint(source):
    """timm's train.py keeps the average beside the weights."""
    return {"epoch": 1, "arch": "resnet18", "state_dict": source.state_dict(), "state_dict_ema": other()}, "state_dict."


def lightly_sequential(source):
    """lightly's examples: backbone = nn.Sequential(*list(resnet.children())[:-1])."""
    backbone = nn.Sequential(*list(source.children())[:-1])
    state = prefixed("backbone.", backbone.state_dict())
    state |= prefixed("backbone_momentum.", nn.Sequential(*list(resnet().children())[:-1]).state_dict())
    state |= prefixed("projection_head.", lightly.models.modules.SimCLRProjectionHead(512, 64, 32).state_dict())
    return lightning_file(state), "below state_dict.backbone. "


def lightly_named(source):
    """lightly's benchmarks: resnet.fc = Identity()."""
    state = prefixed("backbone.", body(source)) | {"online_classifier.linear.weight": torch.rand(10, 512)}
    return lightning_file(state), "below state_dict.backbone. "


def solo_learn(source):
    state = prefixed("momentum_backbone.", {n: v for n, v in other().items() if not n.startswith("fc.")})
    state |= prefixed("backbone.", body(source))
    state |= {"classifier.weight": torch.rand(10, 512), "projector.0.weight": torch.rand(64, 512)}
    return lightning_file(state), "below state_dict.backbone. "


def fair_moco(source):
    state = prefixed("module.encoder_k.", other()) | prefixed("module.encoder_q.", source.state_dict())
    return {"epoch": 1, "arch": "resnet18", "state_dict": state}, "below state_dict.module.encoder_q. "


def dino(source):
    state = {"teacher": prefixed("module.backbone.", other())}
    return state | {"student": prefixed("module.backbone.", source.state_dict())}, "below student.module.backbone. "


WRITERS = (
    *(torchvision_file, without_counts, lightly_sequential, solo_learn),
    *(pytest.param(write, marks=pytest.mark.slow) for write in (timm_checkpoint, lightly_named, fair_moco, dino)),
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_encoder_in_a_checkpoint_of_others(write, source, tmp_path):
    content, said = write(source)
    torch.save(content, tmp_path / "weights.pth")
    encoder = resnet("resnet18")
    line = load_encoder_weights(encoder, tmp_path / "weights.pth")
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(IMAGES), features(source), rtol=0, atol=0)
    assert line.startswith(f"init_from: {tmp_path / 'weights.pth'}: 1")
    assert said in line
    assert "left out: " in line
    assert line.isprintable()


def test_lightlys_own_resnet_for_small_images(tmp_path):
    torch.manual_seed(3)
    generator = filled(lightly.models.ResNetGenerator("resnet-18"))
    backbone = nn.Sequential(*list(generator.children())[:-1], nn.AdaptiveAvgPool2d(1))
    torch.save(lightning_file(prefixed("backbone.", backbone.state_dict())), tmp_path / "lightly.ckpt")
    encoder = resnet("resnet18", small_images=True)
    assert "nothing left out" in load_encoder_weights(encoder, tmp_path / "lightly.ckpt")
    rectified = nn.Sequential(backbone[:2], nn.ReLU(), backbone[2:], nn.Flatten())  # their forward calls relu itself
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(IMAGES), rectified(IMAGES))


def test_safetensors_and_a_vit_of_timms(tmp_path):
    small = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **small)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = timm_encoder("vit_tiny_patch16_224", image_size=32, options=small)
    line = load_encoder_weights(encoder, tmp_path / "vit.safetensors")
    assert line.endswith("loaded into the encoder; left out: head.bias, head.weight")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, vit.state_dict()[name])


def test_only_an_average_is_better_than_nothing(source, tmp_path):
    torch.save({"teacher": source.state_dict()}, tmp_path / "teacher.pth")
    assert "below teacher. loaded" in load_encoder_weights(resnet("resnet18"), tmp_path / "teacher.pth")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            {"name": "resnet50"},
            r"does not fit the encoder in \d+ of 318 tensors; the first is layer1\.0\.conv1\.weight: ",
        ),
        (
            {"small_images": True},
            r"in 1 of 120 .* conv1\.weight: \(64, 3, 7, 7\) in the file, \(64, 3, 3, 3\) in the enc",
        ),
        ({"in_channels": 1}, r"in 1 of 120 tensors; .* conv1\.weight: \(64, 3, 7, 7\) in the file, \(64, 1, 7, 7\)"),
    ],
)
def test_what_does_not_fit_is_named(encoder, message, source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    encoder = resnet(**encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match=r"^init_from: .*" + message):
        load_encoder_weights(encoder, tmp_path / "resnet18.pth")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_layers_of_a_deeper_network_are_not_passed_over(source, tmp_path):
    """All of ResNet-18's tensors are in a ResNet-34, with the same shapes."""
    torch.save(resnet("resnet34").state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(
        ConfigError, match=r"layer1\.2\.conv1\.weight: \(64, 64, 3, 3\) in the file, absent in the encoder"
    ):
        load_encoder_weights(resnet("resnet18"), tmp_path / "resnet34.pth")


@pytest.mark.parametrize(
    "content", [{}, {"state_dict": {}}, {"a": 1}, {"state_dict": {"x.weight": torch.ones(2)}}], ids=str
)
def test_a_file_without_an_encoder(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"^init_from: .* does not fit the encoder in 1.. of 120 tensors"):
        load_encoder_weights(resnet("resnet18"), tmp_path / "x.pth")


def test_a_broken_safetensors_file_is_one_line(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ConfigError, match=r"^[^\n]*x\.safetensors: damaged: no safetensors file[^\n]*$"):
        load_encoder_weights(resnet("resnet18"), tmp_path / "x.safetensors")
