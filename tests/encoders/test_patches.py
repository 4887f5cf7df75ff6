"""Images as grids of patches: which pixels a latent sees, what is judged, and sizes that do not fit."""

import pytest
import torch
from torch import nn

from kindred.config import ConfigError, build, check, compose
from kindred.encoders.convnet import ConvNet
from kindred.encoders.patches import Patches, patches_along
from kindred.encoders.windows import WindowEncoder, latents_of


class Pixels(nn.Flatten):
    """Patches of 2 channels and 4x4 as they are."""

    num_features = 32


def test_a_latent_is_of_its_own_patch_and_the_features_are_the_mean():
    images = torch.randn(3, 2, 10, 8)
    encoder = Patches(Pixels(), image_size=10, size=4, stride=2)
    latents = latents_of(encoder, images)
    assert latents.shape == (3, 4, 3, 32)
    for row in range(4):
        for column in range(3):
            patch = images[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            assert torch.equal(latents[:, row, column], patch.flatten(1))
    torch.testing.assert_close(encoder(images), latents.flatten(1, 2).mean(dim=1))
    assert isinstance(encoder, WindowEncoder)
    assert not isinstance(ConvNet(), WindowEncoder)


def test_windows_go_through_the_call_of_the_encoder_and_leave_it_as_it_was():
    encoder = Patches(ConvNet(2, (4,)), image_size=8, size=4, stride=4).double()
    encoder.register_forward_pre_hook(lambda _, inputs: tuple(value.double() for value in inputs))
    images = torch.randn(2, 2, 8, 8)
    assert latents_of(encoder, images).shape == (2, 2, 2, 4)
    assert encoder(images).shape == (2, 4)

    def refuse(_):
        raise RuntimeError("no")

    encoder.encode_windows = refuse
    with pytest.raises(RuntimeError, match="no"):
        latents_of(encoder, images)
    assert "forward" not in vars(encoder)


def test_a_compiled_encoder_gives_both_in_turn():
    encoder, images = Patches(ConvNet(2, (4,)), image_size=8, size=4, stride=2).eval(), torch.randn(2, 2, 8, 8)
    latents, features = latents_of(encoder, images), encoder(images)
    encoder.compile(backend="eager")  # what is guarded is the same with the others
    for _ in range(2):
        torch.testing.assert_close(latents_of(encoder, images), latents)
        torch.testing.assert_close(encoder(images), features)


def test_latents_without_columns_get_one():
    class Series(nn.Module):
        num_features = 1

        def encode_windows(self, inputs):
            return inputs[..., None]

    assert latents_of(Series(), torch.zeros(2, 7)).shape == (2, 7, 1, 1)


@pytest.mark.parametrize(
    ("side", "size", "stride", "message"),
    [
        (32, 11, 2, r"^encoder\.stride is 2: patches of 11 pixels .* 32 does; encoder\.stride=1 or 3 would$"),
        (28, 7, 4, r"encoder\.stride=1 or 3 would$"),
        (8, 9, 1, r"^encoder\.size is 9: a patch must fit into an image of 8 pixels$"),
    ],
)
def test_patches_that_do_not_fit_are_refused_with_what_would(side, size, stride, message):
    with pytest.raises(ConfigError, match=message):
        Patches(Pixels(), side, size, stride)
    with pytest.raises(ConfigError, match=message):
        patches_along(side, size, stride)


def test_an_encoder_that_does_not_say_its_length_is_refused():
    with pytest.raises(ConfigError, match=r"^encoder\.encoder: Flatten lacks the attribute num_features"):
        Patches(nn.Flatten(), 8, 4, 4)


@pytest.mark.parametrize("size", [8, 32, 64, 96, 224])
def test_the_grid_of_the_configuration_is_seven_by_seven(size):
    config = compose(["model=cpc", f"data.image_size={size}"])
    check(config)
    assert config.choices.encoder == "patches"
    encoder = build(config, "encoder").eval()
    with torch.no_grad():
        assert latents_of(encoder, torch.zeros(1, 3, size, size)).shape == (1, 7, 7, 256)


def test_any_encoder_of_images_may_encode_the_patches():
    config = compose(["model=cpc", "data=digits", "encoder@encoder.encoder=resnet18", "encoder.size=4"])
    check(config)
    encoder = build(config, "encoder").eval()
    with torch.no_grad():
        assert latents_of(encoder, torch.zeros(1, 1, 8, 8)).shape == (1, 5, 5, 512)


def test_the_choice_of_the_data_goes_before_that_of_the_method_and_the_command_line_before_both():
    def chosen(*overrides):
        choices = compose(["model=cpc", *overrides]).choices
        return choices.encoder, choices.views

    assert chosen() == ("patches", "cpc")
    assert chosen("data=digits") == ("patches", "digits")
    assert chosen("data=imagefolder") == ("resnet18", "cpc")
    assert chosen("data=docstrings") == ("transformer", "spans")
    assert chosen("data=imagefolder", "encoder=patches", "views=small") == ("patches", "small")
    choices = compose(["model=simclr"]).choices
    assert (choices.encoder, choices.views) == ("convnet", "small")
