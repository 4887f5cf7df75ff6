"""Views against torchvision's functional operations, a pure-Python hash, and themselves in other batches."""

import functools
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from kindred.data.counter import uniforms
from kindred.data.images.views import MultiView, colour
from kindred.data.images.views.operations import Draw
from kindred.data.images.views.resample import CROP_TRIES, cos_sin, exp, random_boxes, resample, resample_affine
from kindred.data.images.views.view import View

LEVEL = 1 / 255
EVERYTHING = View(
    size=24,
    rotate=15.0,
    translate=0.1,
    zoom=(0.9, 1.2),
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    gray=0.2,
    blur=0.5,
    solarize=0.2,
)
COLOURS = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "gray": 0.2}


@functools.cache
def photographs(side: int, channels: int = 3) -> torch.Tensor:
    """Squares from photographs that ship with scikit-image, uint8 [B, C, side, side]."""
    from skimage import data

    squares = []
    for photograph in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        image = torch.from_numpy(photograph).permute(2, 0, 1)
        for top, left in ((0, 0), (40, 150), (image.shape[1] - side, image.shape[2] - side)):
            squares.append(image[:, top : top + side, left : left + side])
    images = torch.stack(squares)
    return images if channels == 3 else images[:, :1].contiguous()


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.to(torch.float32) / 255


def per_image(count: int, low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, count)


def assert_agrees(ours: torch.Tensor, images: torch.Tensor, parameters: torch.Tensor, operation) -> None:
    """`operation(uint8 image, parameter)` is torchvision's; at most two grey levels anywhere."""
    theirs = torch.stack([operation(image, value.item()) for image, value in zip(images, parameters, strict=True)])
    assert (ours - floats(theirs)).abs().max() <= 2 * LEVEL


# uniforms


def reference_uniform(seed: int, epoch: int, view: int, index: int, draw: int) -> float:
    """The hash in unbounded integers, written from the definition of splitmix64."""

    def mix(word: int) -> int:
        word %= 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    golden = 0x9E3779B97F4A7C15
    state = 0
    for word in (seed, epoch, view, index):
        state = mix(state + word + golden)
    return (mix(state + (draw + 1) * golden) >> 40) / 2**24


def test_the_hash_is_splitmix64():
    """First outputs of the published generator for the state 1234567 (Vigna's splitmix64.c)."""
    from kindred.data.counter import GOLDEN, MASK, _mix_word

    outputs = [_mix_word((1234567 + n * GOLDEN) & MASK) for n in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 2**40),
    view=st.integers(0, 20),
    index=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_uniforms_equal_the_integer_reference(seed, epoch, view, index):
    ours = uniforms(seed, epoch, view, torch.tensor(index), 7)
    theirs = [[reference_uniform(seed, epoch, view, i, draw) for draw in range(7)] for i in index]
    assert ours.tolist() == theirs


def test_uniforms_are_uniform_and_independent():
    u = torch.stack([uniforms(1, epoch, view, torch.arange(5000), 8) for epoch in range(3) for view in range(2)])
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = u.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 63 + 5 * math.sqrt(2 * 63)
    # neighbouring draws, images, views and epochs: correlations of 5000 numbers stay within 5 standard deviations
    for a, b in (
        (u[0, :, 0], u[0, :, 1]),
        (u[0, :-1, 0], u[0, 1:, 0]),
        (u[0, :, 0], u[1, :, 0]),
        (u[0, :, 0], u[2, :, 0]),
        (u[0, :, 0], uniforms(2, 0, 0, torch.arange(5000), 1)[:, 0]),
    ):
        assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 5 / math.sqrt(5000)


# crops and resampling


def test_exp_cos_and_sin_are_accurate():
    x = torch.linspace(-2, 80, 5001)
    relative = (exp(x).double() / x.double().exp() - 1).abs()
    assert relative[x < 20].max() < 1e-5
    assert relative.max() < 0.1
    x = torch.linspace(-math.pi, math.pi, 5001)
    cosine, sine = cos_sin(x)
    assert (cosine - x.double().cos()).abs().max() < 2e-6
    assert (sine - x.double().sin()).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((32, 32), (0.08, 1.0)), ((96, 224), (0.2, 1.0)), ((224, 224), (0.5, 0.9)), ((300, 30), (0.08, 1.0))],
)
def test_crop_boxes_are_distributed_as_torchvisions(shape, scale):
    """Mean, spread and quantiles of area, ratio and position, four thousand boxes against as many."""
    count, ratio = 4_000, (3 / 4, 4 / 3)
    index = torch.arange(count)
    ours = random_boxes(uniforms(0, 0, 0, index, 2 * CROP_TRIES + 2), *shape, scale, ratio).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(1, *shape)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)]).double()

    top, left, height, width = ours.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    assert (top + height <= shape[0]).all()
    assert (left + width <= shape[1]).all()

    def features(boxes: torch.Tensor) -> torch.Tensor:
        top, left, height, width = boxes.unbind(1)
        return torch.stack((height * width, (width / height).log(), top, left, height, width))

    a, b = features(ours), features(theirs)
    error = ((a.var(1) + b.var(1)) / count).sqrt()
    assert ((a.mean(1) - b.mean(1)).abs() <= 4.5 * error + 1e-9).all()
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        # Kolmogorov-Smirnov distance; 1.95 * sqrt(2 / n) is exceeded once in a thousand times
        grid = np.union1d(x, y)
        ranks = (np.searchsorted(np.sort(z), grid, side="right") for z in (x, y))
        assert np.abs(np.subtract(*ranks)).max() / count < 1.95 * math.sqrt(2 / count)


def test_crop_boxes_fall_back_to_the_central_crop():
    """An image so long that no draw of a large area fits: torchvision's fallback, value by value."""
    for shape in ((8, 200), (200, 8), (7, 1)):
        box = random_boxes(uniforms(0, 0, 0, torch.arange(50), 22), *shape, (0.99, 1.0), (3 / 4, 4 / 3))
        theirs = RandomResizedCrop.get_params(torch.empty(1, *shape), (0.99, 1.0), (3 / 4, 4 / 3))
        assert torch.equal(box, torch.tensor(theirs).expand(50, 4))


def test_crop_boxes_take_sides_per_image():
    views = MultiView([View(), View()], seed=3)
    index = torch.tensor([5, 9, 11])
    sides = [(480, 640), (333, 500), (64, 64)]
    together = views.crop_boxes(1, index, 7, *torch.tensor(sides).T)
    for row, (position, (height, width)) in enumerate(zip(index, sides, strict=True)):
        assert torch.equal(together[row], views.crop_boxes(1, position[None], 7, height, width)[0])
    assert not torch.equal(together, views.crop_boxes(0, index, 7, *torch.tensor(sides).T))


@pytest.mark.parametrize(("side", "out"), [(32, 32), (32, 8), (64, 24), (256, 224)])
def test_crop_flip_and_resize_agree_with_torchvision(side, out):
    images = photographs(side)
    count = len(images)
    boxes = random_boxes(uniforms(0, 0, 0, torch.arange(count), 22), side, side, (0.08, 1.0), (3 / 4, 4 / 3))
    boxes[0] = torch.tensor([0, 0, side, side])
    boxes[1] = torch.tensor([side // 2, 0, 1, side])
    flip = torch.arange(count) % 2 == 1
    ours = resample(images, boxes, flip, (out, out))
    theirs = []
    for image, box, mirrored in zip(images, boxes.tolist(), flip, strict=True):
        crop = tv.resized_crop(image, *box, [out, out], antialias=True)
        theirs.append(tv.horizontal_flip(crop) if mirrored else crop)
    difference = (ours - floats(torch.stack(theirs))).abs()
    assert difference.max() <= 2 * LEVEL
    assert difference.mean() <= 0.5 * LEVEL


def test_a_crop_of_the_whole_image_is_the_image():
    images = photographs(32)
    boxes = torch.tensor([0, 0, 32, 32]).expand(len(images), 4)
    torch.testing.assert_close(resample(images, boxes, None, (32, 32)), floats(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_affine_agrees_with_torchvision(channels):
    images = photographs(33, channels)
    count = len(images)
    boxes = torch.tensor([0, 0, 33, 33]).expand(count, 4)
    degrees, zoom = per_image(count, -180, 180), per_image(count, 0.8, 1.3)
    shift = torch.stack((torch.arange(count) - 5, 3 - torch.arange(count)), 1).float()
    ours = resample_affine(images, boxes, None, (33, 33), degrees, shift, zoom)
    for row, image in enumerate(images):
        theirs = tv.affine(
            image.float() / 255,
            angle=degrees[row].item(),
            translate=shift[row].tolist(),
            scale=zoom[row].item(),
            shear=[0.0, 0.0],
            interpolation=tv.InterpolationMode.BILINEAR,
        )
        assert (ours[row] - theirs).abs().max() <= 2 * LEVEL


def test_affine_then_crop_then_flip_is_one_resampling():
    """A neutral map changes nothing; after a quarter turn the box is cut from the turned image.

    Except at the border of the box, where the filter of an affine view also sees the pixels outside of it.
    """
    inner = (..., slice(1, -1), slice(1, -1))
    images = photographs(40)
    count = len(images)
    boxes = torch.tensor([10, 4, 16, 24]).expand(count, 4)
    flip = torch.arange(count) % 2 == 0
    zeros, shift, ones = torch.zeros(count), torch.zeros(count, 2), torch.ones(count)
    plain = resample(images, boxes, flip, (16, 12))
    neutral = resample_affine(images, boxes, flip, (16, 12), zeros, shift, ones)
    torch.testing.assert_close(neutral[inner], plain[inner], rtol=0, atol=1e-4)
    turned = resample_affine(images, boxes, flip, (16, 12), ones * 90, shift, ones)
    expected = resample(torch.rot90(images, -1, (2, 3)), boxes, flip, (16, 12))
    torch.testing.assert_close(turned[inner], expected[inner], rtol=0, atol=1e-4)


# colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (colour.adjust_brightness_, tv.adjust_brightness, 0.0, 2.0),
        (colour.adjust_contrast_, tv.adjust_contrast, 0.0, 2.0),
        (colour.adjust_saturation_, tv.adjust_saturation, 0.0, 2.0),
        (colour.adjust_hue_, tv.adjust_hue, -0.5, 0.5),
        (colour.solarize_, lambda image, value: tv.solarize(image, value * 255), 0.0, 1.0),
    ],
)
def test_colour_agrees_with_torchvision(channels, ours, theirs, low, high):
    images = photographs(64, channels)
    parameters = per_image(len(images), low, high)
    result = ours(floats(images), parameters)
    assert result.min() >= 0
    assert result.max() <= 1
    assert_agrees(result, images, parameters, theirs)


def test_hue_agrees_on_the_whole_colour_cube():
    """Every corner, edge and grey of the cube, where two or three channels are equal, for many turns."""
    grid = torch.linspace(0, 255, 18).round().to(torch.uint8)
    cube = torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij")).view(1, 3, 54, 108)
    turns = torch.cat((per_image(23, -0.5, 0.5), torch.tensor([0.0, 1 / 3, -1 / 3, 1 / 6, -1 / 6])))
    images = cube.repeat(len(turns), 1, 1, 1)
    assert_agrees(colour.adjust_hue_(floats(images), turns), images, turns, tv.adjust_hue)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_agrees_with_torchvision(channels):
    images = photographs(32, channels)
    apply = torch.arange(len(images)) % 3 == 0
    result = colour.to_gray_(floats(images), apply)
    assert_agrees(result[apply], images[apply], apply[apply], lambda image, _: tv.rgb_to_grayscale(image, channels))
    assert torch.equal(result[~apply], floats(images)[~apply])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "kernel"), [(64, 23), (32, 13), (9, 5)])
def test_blur_agrees_with_torchvision(side, kernel, channels):
    images = photographs(side, channels)
    sigma = per_image(len(images), 0.1, 2.0)
    radius = kernel // 2 if side < 32 else colour.blur_radius(2.0)
    result = colour.gaussian_blur_(floats(images), sigma, radius)
    assert_agrees(result, images, sigma, lambda image, value: tv.gaussian_blur(image, [kernel, kernel], [value, value]))


def test_neutral_parameters_change_nothing():
    images = floats(photographs(32))
    ones, zeros = torch.ones(len(images)), torch.zeros(len(images))
    for operation in (colour.adjust_brightness_, colour.adjust_contrast_, colour.adjust_saturation_):
        assert torch.equal(operation(images.clone(), ones), images)
    torch.testing.assert_close(colour.adjust_hue_(images.clone(), zeros), images, rtol=0, atol=1e-6)
    assert torch.equal(colour.gaussian_blur_(images.clone(), zeros, 6), images)
    assert torch.equal(colour.solarize_(images.clone(), ones * 2), images)


# the whole


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


@given(
    batch=st.integers(1, 40),
    height=st.integers(5, 37),
    width=st.integers(5, 37),
    channels=st.sampled_from([1, 3]),
    size=st.sampled_from([None, 1, 7, 16, 33]),
    affine=st.booleans(),
    threads=st.sampled_from([1, 2]),
    order_seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_a_view_does_not_depend_on_its_batch(batch, height, width, channels, size, affine, threads, order_seed):
    """Bit for bit: another order, a subset, alone, with other neighbours, on other numbers of threads."""
    settings_ = {**COLOURS, "size": size, "blur": 0.5, "solarize": 0.3}
    if affine:
        settings_ |= {"rotate": 30.0, "translate": 0.2, "zoom": (0.8, 1.2)}
    views = MultiView([View(**settings_), View(size=size, crop_scale=None, gray=0.5)], seed=5)
    images = random_images(batch, channels, height, width)
    index = torch.arange(batch) * 7 + 3
    before = torch.get_num_threads()
    whole = views(images, index, 2)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(order_seed))
    part = order[: max(1, batch // 2)]
    try:
        torch.set_num_threads(threads)
        for chosen in (order, part, part[:1]):
            for view, expected in zip(views(images[chosen], index[chosen], 2), whole, strict=True):
                assert torch.equal(view, expected[chosen])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_view_does_not_depend_on_its_batch_at_224_pixels(threads):
    """Large enough that torch splits single images over threads."""
    images = random_images(5, 3, 256, 240)
    views = MultiView([View(size=224, **COLOURS, blur=1.0, solarize=0.5)], seed=0)
    index = torch.arange(5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        (whole,) = views(images, index, 0)
        torch.set_num_threads(1)
        for row in range(5):
            assert torch.equal(views(images[row : row + 1], index[row : row + 1], 0)[0][0], whole[row])
    finally:
        torch.set_num_threads(before)


def test_chunks_leave_no_trace(monkeypatch):
    views = MultiView([EVERYTHING], seed=0)
    images, index = random_images(10, 3, 32, 32), torch.arange(10)
    expected = views(images, index, 0)[0]
    for values in (1, 7000, 1 << 30):
        monkeypatch.setattr("kindred.data.images.views.operations.CHUNK_VALUES", values)
        assert torch.equal(views(images, index, 0)[0], expected)


def test_seed_epoch_index_and_view_all_matter():
    image = photographs(32)[:1].repeat(6, 1, 1, 1)
    index = torch.arange(6)

    def render(seed=0, epoch=0, offset=0, view=0):
        return MultiView([EVERYTHING, EVERYTHING], seed)(image, index + offset, epoch)[view]

    reference = render()
    assert torch.equal(reference, render())
    for other in (render(seed=1), render(epoch=1), render(offset=6), render(view=1)):
        assert all(not torch.equal(a, b) for a, b in zip(reference, other, strict=True))
    assert len({view.numpy().tobytes() for view in reference}) == 6


def test_views_are_in_range_contiguous_float32_and_leave_the_images_alone():
    images = photographs(40)
    before = images.clone()
    for view in MultiView([EVERYTHING, View(), View(size=8, crop_scale=None)], 0)(images, torch.arange(len(images)), 0):
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert view.min() >= 0
        assert view.max() <= 1
    assert torch.equal(images, before)


def test_extreme_images_stay_in_range():
    images = torch.tensor([0, 255], dtype=torch.uint8)[torch.randint(0, 2, (64, 3, 16, 16))]
    images[0], images[1] = 0, 255
    view = MultiView([View(jitter=1, brightness=1, contrast=1, saturation=1, hue=0.5, blur=1, solarize=0.5)], 0)(
        images, torch.arange(64), 0
    )[0]
    assert view.isfinite().all()
    assert view.min() >= 0
    assert view.max() <= 1


def test_global_random_state_is_untouched():
    state = torch.get_rng_state()
    MultiView([EVERYTHING, EVERYTHING], 0)(photographs(32), torch.arange(12), 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_changes_nothing():
    views, images, index = MultiView([EVERYTHING], 0), photographs(32), torch.arange(12)
    expected = views(images, index, 0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views(images, index, 0)[0], expected)


def test_probabilities():
    """Each operation alone, on an image where it shows, happens as often as it says (5 standard deviations).

    Now and then one happens without showing, as a brightness factor of nearly 1.
    """
    count = 500
    image = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    image[:, 0, :, :2], image[:, 1] = 200, 90
    images = image.expand(count, -1, -1, -1)
    for chance in (0.0, 0.3, 1.0):
        for name, others in (
            ("flip", {}),
            ("jitter", {"flip": 0.0, "hue": 0.3}),
            ("jitter", {"flip": 0.0, "brightness": 0.4}),
            ("gray", {"flip": 0.0}),
            ("blur", {"flip": 0.0, "blur_sigma": (0.5, 1.0)}),
            ("solarize", {"flip": 0.0}),
        ):
            view = View(crop_scale=None, **{name: chance}, **others)
            result = MultiView([view], 1)(images, torch.arange(count), 0)[0]
            happened = (result - floats(images)).abs().amax((1, 2, 3)) > 1e-4
            assert abs(happened.double().mean() - chance) <= 5 * math.sqrt(chance * (1 - chance) / count) + 4 / count


def test_strengths_span_their_range():
    images = torch.full((4000, 3, 2, 2), 100, dtype=torch.uint8)
    view = View(crop_scale=None, flip=0.0, jitter=1.0, brightness=0.4)
    factor = MultiView([view], 0)(images, torch.arange(4000), 0)[0][:, 0, 0, 0] * 2.55
    assert 0.6 <= factor.min() < 0.605
    assert 1.395 < factor.max() <= 1.4 + 1e-6
    assert abs(factor.mean() - 1) < 0.02


def test_operations_that_cannot_happen_are_skipped(monkeypatch):
    def never(*_):
        raise AssertionError("a colour operation ran")

    for name in (*(n for n in dir(colour) if n.startswith("adjust_")), "to_gray_", "gaussian_blur_", "solarize_"):
        monkeypatch.setattr(colour, name, never)
    views = MultiView([View(), View(jitter=0.8), View(hue=0.1, brightness=0.4)], 0)
    views(photographs(32), torch.arange(12), 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_cropped_images_get_the_same_colours(channels):
    """What a loader's worker cropped ends as what was cropped here, up to the rounding to uint8 in between."""
    plain = View(size=20, flip=0.0)
    full = View(size=20, **COLOURS, blur=0.5)
    images, index = photographs(32, channels), torch.arange(12)
    crops = torch.stack(MultiView([plain, plain], 9)(images, index, 4), 1)
    cropped = (crops * 255).round().to(torch.uint8)
    views = MultiView([full, full], 9)
    for ours, expected in zip(views(cropped, index, 4), views(images, index, 4), strict=True):
        assert (ours - expected).abs().max() <= 4 * LEVEL
        assert (ours - expected).abs().mean() <= 0.5 * LEVEL


# the order of the colours

STRONG = {"jitter": 0.8, "brightness": 0.6, "contrast": 0.6, "saturation": 0.6, "hue": 0.2, "gray": 0.3}
ADJUST = {
    "brightness": (Draw.BRIGHTNESS, tv.adjust_brightness),
    "contrast": (Draw.CONTRAST, tv.adjust_contrast),
    "saturation": (Draw.SATURATION, tv.adjust_saturation),
    "hue": (Draw.HUE, tv.adjust_hue),
}


def drawn_order(u, strengths):
    """The operations in the order of their draws."""
    return sorted(strengths, key=lambda name: float(u[Draw.ORDER + list(ADJUST).index(name)]))


def one_at_a_time(images, view, index, order):
    """torchvision's operations on each image by itself, with the view's draws, in an order of a draw or a fixed one."""
    draws, results = uniforms(7, 3, 0, index, Draw.ORDER + 4), []
    strengths = {name: getattr(view, name) for name in ADJUST if getattr(view, name) > 0}
    for image, u in zip(floats(images), draws, strict=True):
        gray = float(u[Draw.GRAY]) < view.gray
        if gray and view.gray_first:
            image = tv.rgb_to_grayscale(image, 3)
        if float(u[Draw.JITTER]) < view.jitter:
            for name in drawn_order(u, strengths) if order == "random" else strengths:
                draw, adjust = ADJUST[name]
                share = float(u[draw]) * 2 - 1
                image = adjust(image, share * strengths[name] + (name != "hue"))
        if gray and not view.gray_first:
            image = tv.rgb_to_grayscale(image, 3)
        results.append(image)
    return torch.stack(results)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("gray_first", [True, False])
@pytest.mark.parametrize("order", ["random", "fixed"])
@pytest.mark.parametrize("without", [None, "saturation"])
def test_colours_come_in_the_order_that_was_drawn(monkeypatch, order, gray_first, without, on_host):
    monkeypatch.setattr("kindred.data.images.views.operations.on_host", lambda _: on_host)  # False: the way of a GPU
    strengths = STRONG | ({without: 0.0} if without else {})
    view = View(crop_scale=None, flip=0.0, jitter_order=order, gray_first=gray_first, **strengths)
    images, index = photographs(16).repeat(5, 1, 1, 1), torch.arange(60) * 17
    found = MultiView([view], 7)(images, index, 3)[0]
    torch.testing.assert_close(found, one_at_a_time(images, view, index, order), rtol=0, atol=2e-3)
    others = {"random": "fixed", "fixed": "random"}
    assert (found - one_at_a_time(images, view, index, others[order])).abs().max() > 0.05  # the order matters


def test_all_orders_are_as_likely():
    u = uniforms(0, 0, 0, torch.arange(24_000), Draw.ORDER + 4)
    counts = Counter(tuple(row) for row in u[:, Draw.ORDER :].argsort(dim=1).tolist())
    assert len(counts) == 24
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 50  # chi-squared of 23: beyond it in 1 of 1,000


def test_the_draws_of_the_order_move_no_other():
    index = torch.arange(50)
    before = uniforms(5, 2, 1, index, max(d for d in Draw if d != Draw.ORDER) + 1)
    assert torch.equal(uniforms(5, 2, 1, index, Draw.ORDER + 4)[:, : before.shape[1]], before)
    assert Draw.ORDER == max(Draw) == before.shape[1]


def test_gray_images_stay_gray_and_move():
    images = photographs(32, 1)
    view = MultiView([EVERYTHING], 0)(images, torch.arange(12), 0)[0]
    assert view.shape == (12, 1, 24, 24)


# settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", 2.5),
        ("size", True),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 1.5)),
        ("crop_scale", (0.9, 0.2)),
        ("crop_scale", 0.5),
        ("crop_scale", "ab"),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (1.0, float("inf"))),
        ("crop_ratio", (1.0,)),
        ("flip", 1.5),
        ("flip", -0.1),
        ("flip", "often"),
        ("flip", float("nan")),
        ("rotate", 190),
        ("translate", -1),
        ("zoom", (0.0, 1.0)),
        ("jitter", 2),
        ("brightness", -0.4),
        ("contrast", float("inf")),
        ("saturation", None),
        ("hue", 0.6),
        ("gray", True),
        ("jitter_order", "shuffled"),
        ("gray_first", 1),
        ("blur", 1.01),
        ("blur_sigma", (2.0, 0.1)),
        ("solarize", -1),
        ("solarize_threshold", 128),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field}=.* must be"):
        View(**{field: value})


def test_lists_from_yaml_become_tuples():
    view = View(crop_scale=[0.2, 1], crop_ratio=[1.0, 1.0], blur_sigma=[0.1, 2.0], zoom=[1, 1])
    assert view == View(crop_scale=(0.2, 1.0), crop_ratio=(1.0, 1.0))
    assert not view.is_affine


def test_each_of_many_channels_is_cut_as_if_it_were_alone():
    images = torch.randint(256, (6, 5, 12, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = MultiView([View(size=8, blur=0.5, jitter=0.8, brightness=0.4), View(size=9, rotate=20.0)], seed=0)
    together = views(images, torch.arange(6), 3)
    for channel in range(5):
        alone = views(images[:, channel : channel + 1], torch.arange(6), 3)
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[:, channel : channel + 1], part)


def test_contrast_of_many_channels_is_about_their_mean():
    images = torch.rand(3, 5, 7, 8, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([0.5, 1.0, 1.4])
    mean = images.double().mean(dim=(1, 2, 3), keepdim=True)
    expected = (images.double() - mean) * factor.double().view(3, 1, 1, 1) + mean
    got = colour.adjust_contrast_(images.clone(), factor)
    assert (got - expected.clamp(0, 1)).abs().max() < 1e-5


def test_wrong_arguments_are_named():
    views = MultiView([View(), View()], 0)
    images, index = photographs(32), torch.arange(12)
    with pytest.raises(ValueError, match="at least one View"):
        MultiView([], 0)
    with pytest.raises(TypeError, match=r"kindred\.data\.images\.views\.View"):
        MultiView([{"size": 32}], 0)
    with pytest.raises(TypeError, match="float32"):
        views(floats(images), index, 0)
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] or"):
        views(images[0], index, 0)
    with pytest.raises(ValueError, match=r"images have 2 channels, but views\[1\]\.hue=0\.1 needs colours"):
        MultiView([View(), View(jitter=0.5, hue=0.1)], 0)(images[:, :2], index, 0)
    with pytest.raises(ValueError, match=r"images have 2 channels, but views\[0\]\.gray=0\.2 needs colours"):
        MultiView([View(gray=0.2), View()], 0)(images[:, :2], index, 0)
    with pytest.raises(ValueError, match="12 images"):
        views(images, index[:5], 0)
    with pytest.raises(ValueError, match="3 cropped views, but 2"):
        views(images[:, None].repeat(1, 3, 1, 1, 1), index, 0)


@pytest.mark.parametrize("name", ["simclr", "mocov1", "mocov2", "nnclr", "crop_only", "small", "digits", "channels"])
def test_the_yaml_files_build(name):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    loaded = OmegaConf.load(f"configs/views/{name}.yaml")
    config = OmegaConf.merge({"seed": 3, "data": {"image_size": 16}}, {"views": loaded})
    views = instantiate(config.views)
    assert isinstance(views, MultiView)
    assert views.seed == 3
    assert len(views.views) == 2
    of_a_paper = name in ("simclr", "mocov1", "mocov2", "nnclr")  # whose code permutes
    assert {view.jitter_order for view in views.views} == {"random" if of_a_paper else "fixed"}
    assert {view.gray_first for view in views.views} == {name == "mocov1"}
    for view in views(photographs(32), torch.arange(12), 0):
        assert view.shape == (12, 3, 16, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_views_without_waiting():
    views, images, index = MultiView([EVERYTHING, View(**COLOURS, blur=0.5)], 0), photographs(64), torch.arange(12)
    expected = views(images, index, 1)
    on_device = images.cuda(), index.cuda()
    views(*on_device, 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = views(*on_device, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, cpu in zip(result, expected, strict=True):
        assert (ours.cpu() - cpu).abs().median() < 1e-6  # the CPU rounds weighted sums once less often


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, "benchmarks/views.py", "--quick", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    assert "| Kindred |" in (tmp_path / "views.md").read_text()
    recipes = json.loads((tmp_path / "views.json").read_text())["results"]
    assert all(rate > 0 for recipe in recipes.values() for rates in recipe.values() for rate in rates)
