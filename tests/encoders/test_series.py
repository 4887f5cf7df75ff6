"""Strided convolutions along time: against each layer written out, the paper's numbers, and what they may see."""

import pytest
import torch
from torch.nn.functional import conv1d, relu

from kindred.config import compose
from kindred.encoders.series import Series
from kindred.errors import ConfigError


def test_the_papers_encoder_makes_a_latent_of_every_160_samples():
    encoder = Series(1, width=8)
    assert encoder.encode_windows(torch.zeros(1, 1, 20_480)).shape == (1, 128, 8)  # section 3.1: 20480 / 160


@pytest.mark.parametrize("name", ["series", "waveform"])
def test_parameters_are_as_many_as_the_file_says(name):
    from hydra.utils import instantiate

    data = "watch" if name == "series" else "audiofolder"
    encoder = instantiate(compose([f"data={data}", "data.source.root=somewhere"]).encoder)
    million = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    assert million == pytest.approx({"series": 0.2, "waveform": 5.3}[name], abs=0.05)


def test_latents_are_those_of_the_layers_one_after_the_other_in_double_precision():
    torch.manual_seed(0)
    encoder = Series(3, width=5, strides=[2, 3], filters=[4, 3]).double()
    inputs = torch.randn(2, 3, 60, dtype=torch.float64)
    first, second = (layer for layer in encoder.layers if isinstance(layer, torch.nn.Conv1d))
    expected = relu(conv1d(relu(conv1d(inputs, first.weight, first.bias, 2, 1)), second.weight, second.bias, 3))
    latents = encoder.encode_windows(inputs)
    assert latents.shape == (2, 10, 5)
    assert torch.allclose(latents, expected.transpose(1, 2), atol=1e-12)
    assert torch.allclose(encoder(inputs), expected.mean(dim=2), atol=1e-12)


def test_normalised_by_itself_a_latent_sees_nothing_beyond_its_filters():
    torch.manual_seed(0)
    encoder = Series(1, width=6, strides=[2, 2], filters=[4, 4], normalise="channels")
    inputs = torch.randn(1, 1, 64)
    changed = inputs.clone()
    changed[:, :, 40:] += 1
    before, after = encoder.encode_windows(inputs), encoder.encode_windows(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strides": [2, 2], "filters": [4]},
            r"encoder\.filters is \[4\] and encoder\.strides \[2, 2\]: give one of each",
        ),
        ({"strides": [], "filters": []}, r"encoder\.filters is \[\]"),
        ({"strides": [4], "filters": [2]}, r"encoder\.filters is \[2\]: a filter must reach at least as far"),
    ],
)
def test_layers_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Series(1, **settings)
