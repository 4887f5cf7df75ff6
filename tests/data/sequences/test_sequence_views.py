"""Views of sequences against loops over numbers, and as functions of (seed, epoch, index, view)."""

import math

import numpy as np
import pytest
import torch

from kindred.data.counter import uniforms, words
from kindred.data.sequences.source import Scaling
from kindred.data.sequences.views import BANDS, INK, LANE, WIDTH, SequenceView, SequenceViews, normals
from kindred.errors import ConfigError

CHANNELS, STEPS = 3, 40
SCALING = Scaling([1.0, -2.0, 0.5], [2.0, 0.5, 4.0])
ALL = (
    {},
    {"crop": 0.3},
    {"scale": (0.5, 2.0)},
    {"jitter": 0.2},
    {"drop": 0.6},
    {"crop": 0.77, "scale": (0.8, 3.0), "jitter": 0.1, "drop": 0.3},
)


def series(count):
    return torch.randn(count, CHANNELS, STEPS, generator=torch.Generator().manual_seed(0)) * 3


def views(*settings, seed=0):
    found = SequenceViews([SequenceView(**own) for own in settings], seed)
    found.expect(SCALING)
    return found


def by_hand(row, index, epoch, number, count, view):
    """One view of one sequence, value by value, from the same draws."""
    draws = uniforms(0, epoch, number, torch.tensor([index]), 2 + 2 * CHANNELS)[0].tolist()
    length = round(view.crop * STEPS)
    start = int(draws[1] * (STEPS - length + 1))
    noise = words(0, epoch, count + number, torch.tensor([index]), CHANNELS * length)[0].tolist()
    kept = [draw >= view.drop for draw in draws[2 + CHANNELS :]]
    result = np.zeros((CHANNELS, length))
    for channel in range(CHANNELS):
        low, high = view.scale
        factor = low * (high / low) ** draws[2 + channel]
        for step in range(length):
            value = (float(row[channel, start + step]) - SCALING.mean[channel]) / SCALING.std[channel] * factor
            word = noise[channel * length + step] % 2**64
            first, second = ((word >> 40) + 1) / 2**24, (word >> 16) % 2**24 / 2**24
            value += view.jitter * math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
            result[channel, step] = value if kept[channel] or not any(kept) else 0.0
    return result


def test_every_view_is_what_its_settings_say():
    raw, index = series(12), torch.arange(12) * 17
    for number, (view, made) in enumerate(zip(ALL, views(*ALL).augment(raw, index, 5), strict=True)):
        for row in range(12):
            expected = by_hand(raw[row], 17 * row, 5, number, len(ALL), SequenceView(**view))
            assert np.allclose(made[row].numpy(), expected, atol=1e-5), (view, row)


def test_no_batch_order_or_place_changes_a_view_but_epoch_seed_and_number_do():
    raw, index = series(40), torch.arange(40) * 31
    whole = views(*ALL).augment(raw, index, 2)
    some = torch.tensor([7, 3, 22])
    for view, part in zip(whole, views(*ALL).augment(raw[some], index[some], 2), strict=True):
        assert torch.equal(view[some], part)
    for other in (views(*ALL).augment(raw, index, 3), views(*ALL, seed=1).augment(raw, index, 2)):
        assert all(not torch.equal(one, another) for one, another in zip(whole[1:], other[1:], strict=True))
    first, second = views(ALL[-1], ALL[-1]).augment(raw, index, 0)
    assert not torch.equal(first, second)


def test_crops_that_a_source_has_cut_are_the_views_of_their_number():
    raw = torch.stack([series(5), series(5).flip(2)], dim=1)
    first, second = views({}, {"drop": 0.5}).augment(raw, torch.arange(5), 0)
    assert torch.equal(first, views({}).plain(raw[:, 0]))
    assert not torch.equal(second, first)
    assert torch.equal(second, views({}, {"drop": 0.5}).augment(raw[:, 1], torch.arange(5), 0)[1])


def test_the_plain_view_draws_nothing_and_undoes_the_scaling():
    raw = series(4)
    expected = (raw.numpy() - np.array(SCALING.mean)[:, None]) / np.array(SCALING.std)[:, None]
    assert np.allclose(views({}).plain(raw).numpy(), expected, atol=1e-6)
    assert torch.equal(views({}).plain(raw.double()), views({}).plain(raw))


def test_noise_is_normal():
    drawn = normals(words(0, 0, 0, torch.arange(500), 400)).flatten().double()
    assert torch.isfinite(drawn).all()
    count = len(drawn)
    assert abs(drawn.mean()) < 4 / count**0.5
    assert abs(drawn.var() - 1) < 4 * (2 / count) ** 0.5
    for value in (-1.5, 0.0, 0.7):
        share = 0.5 * (1 + math.erf(value / 2**0.5))
        assert abs((drawn < value).double().mean() - share) < 4 * (share * (1 - share) / count) ** 0.5
    # The largest word gives log 1, the smallest the largest number.
    ends = normals(torch.tensor([-1, 0]))
    assert ends[0] == 0
    assert ends[1] == pytest.approx(math.sqrt(2 * 24 * math.log(2)))


def test_windows_begin_anywhere_and_as_often():
    raw = torch.arange(STEPS).float().expand(4000, CHANNELS, STEPS)
    found = SequenceViews([SequenceView(crop=0.8)], 0)
    (view,) = found.augment(raw, torch.arange(4000), 0)
    assert view.shape == (4000, CHANNELS, 32)
    assert (view.diff(dim=2) == 1).all()
    starts = torch.bincount(view[:, 0, 0].long(), minlength=9)
    assert len(starts) == 9
    assert (abs(starts - 4000 / 9) < 4 * (4000 / 9) ** 0.5).all()


def test_the_spectrum_of_a_sine_lies_in_its_band():
    steps = torch.arange(256)
    inputs = torch.stack([torch.sin(2 * torch.pi * 42 * steps / 256), torch.full((256,), 3.0)])[None]
    features = SequenceViews([SequenceView()]).as_features(inputs).view(2, BANDS + 4)
    assert features[0, :BANDS].argmax() == 41 // 4  # 128 frequencies in 32 bands of four
    assert features[1, :BANDS].abs().max() < 1e-2
    magnitudes = np.abs(np.fft.rfft(inputs[0, 0].double().numpy()))[1:] / 16
    assert np.allclose(features[0, :BANDS].numpy() ** 2, magnitudes.reshape(BANDS, 4).mean(axis=1), atol=1e-4)
    assert features[1, BANDS:].tolist() == [3, 0, 3, 3]


@pytest.mark.parametrize("steps", [3, 96, 1000])
def test_pictures_are_lines_without_gaps(steps):
    inputs = torch.linspace(-3, 3, steps).expand(2, CHANNELS, steps)
    pictures = SequenceViews([SequenceView()]).pictures(inputs)
    assert pictures.shape == (2, 1, CHANNELS * LANE, WIDTH)
    lane = pictures[0, 0, :LANE] == INK
    assert lane.any(dim=0).all()
    top, bottom = lane.float().argmax(dim=0), LANE - 1 - lane.flip(0).float().argmax(dim=0)
    assert bottom[0] == LANE - 1
    assert top[-1] == 0
    assert (bottom[1:] >= top[:-1]).all()  # a column touches the one before


@pytest.mark.parametrize("scale", [(2.0, 1.0), (0.0, 1.0)])
def test_factors_are_refused_in_the_wrong_order(scale):
    with pytest.raises(ConfigError, match=r"scale is \[.*\]: give two factors above 0, the smaller first"):
        SequenceView(scale=scale)
