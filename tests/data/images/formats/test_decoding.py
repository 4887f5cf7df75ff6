"""Each kind of image file that people have, against what was written into it."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from kindred.data.images.formats.decoding import Reading, decode
from kindred.data.images.formats.scale import UnfitError
from kindred.errors import ConfigError

SHAPE = (6, 9)


def values(dtype, channels=(), seed=0):
    """Random ones, both ends of the type among them."""
    info, generator = np.iinfo(dtype), np.random.default_rng(seed)
    array = generator.integers(info.min, info.max, (*SHAPE, *channels), dtype=dtype, endpoint=True)
    array.flat[:2] = info.min, info.max
    return array


def scaled(array, low, high):
    """What 8 bits should hold, in float64."""
    share = (array.astype(np.float64) - low) / (float(high) - low)
    return np.round(255 * np.minimum(np.maximum(share, 0), 1)).astype(np.uint8)


def decoded(path, channels=3, **reading):
    """uint8 [H, W, C], or [H, W] of one channel"""
    (band,) = decode(str(path), Reading(channels, **reading)).bands
    return np.asarray(band)


def grey(array):
    return np.repeat(array[..., None], 3, axis=2)


def write_png(path, array, interlaced=False, chunks=()):
    """A PNG of 16 bits by its specification (ISO/IEC 15948), each row with another filter."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    step = 2 * channels
    rows, data = [np.zeros(width * step, np.uint8), *array.astype(">u2").view(np.uint8).reshape(height, -1)], b""
    for number in range(height):
        above, row, how = rows[number].astype(int), rows[number + 1].astype(int), number % 5
        left, corner = (np.concatenate([np.zeros(step, int), one[:-step]]) for one in (row, above))
        estimate = left + above - corner
        distances = np.abs(estimate - left), np.abs(estimate - above), np.abs(estimate - corner)
        paeth = np.choose(np.argmin(distances, axis=0), [left, above, corner])
        predicted = [0 * row, left, above, (left + above) // 2, paeth][how]
        data += bytes([how]) + ((row - predicted) % 256).astype(np.uint8).tobytes()

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


# Integers of more than 8 bits


@pytest.mark.parametrize("ends", [None, (1000, 40000)])
def test_grey_png_of_16_bits(tmp_path, ends):
    array = values(np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = scaled(array, *(ends or (0, 65535)))
    assert (decoded(tmp_path / "a.png", 1, range=ends) == expected).all()
    assert (decoded(tmp_path / "a.png", 3, range=ends) == grey(expected)).all()


@pytest.mark.parametrize("ends", [None, (1000, 1400.5)])
def test_colour_png_of_16_bits(tmp_path, ends):
    array = values(np.uint16, (3,))
    write_png(tmp_path / "a.png", array)
    assert (decoded(tmp_path / "a.png", range=ends) == scaled(array, *(ends or (0, 65535)))).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_png_of_16_bits_with_alpha_lies_over_white(tmp_path, channels):
    array = values(np.uint16, (channels,))
    write_png(tmp_path / "a.png", array)
    alpha = array[..., -1:] / 65535
    colours = np.repeat(array[..., :1], 3, axis=2) if channels == 2 else array[..., :3]
    expected = 255 * (colours / 65535 * alpha + 1 - alpha)
    assert np.abs(decoded(tmp_path / "a.png") - expected).max() < 1.6  # values and alpha are rounded to 8 bits before


def test_png_of_16_bits_whose_one_colour_is_transparent(tmp_path):
    array = values(np.uint16, (3,))
    write_png(tmp_path / "a.png", array, chunks=[(b"tRNS", array[2, 3].astype(">u2").tobytes())])
    expected = scaled(array, 0, 65535)
    expected[2, 3] = 255
    assert (decoded(tmp_path / "a.png") == expected).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_more_bits(tmp_path, dtype, channels, order):
    array, info = values(dtype, channels), np.iinfo(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=order, photometric="rgb" if channels else "minisblack")
    expected = scaled(array, info.min, info.max)
    assert (decoded(tmp_path / "a.tif") == (expected if channels else grey(expected))).all()
    expected = scaled(array, info.max // 3, info.max // 2)
    ends = (info.max // 3, info.max // 2)
    assert (decoded(tmp_path / "a.tif", range=ends) == (expected if channels else grey(expected))).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_grey_tiff(tmp_path, compression):
    array = values(np.uint16)
    Image.fromarray(array).save(tmp_path / "a.tif", compression=compression)
    assert (decoded(tmp_path / "a.tif", 1) == scaled(array, 0, 65535)).all()


def test_tiff_of_12_bits(tmp_path):
    array = values(np.uint16) % 4096
    packed = np.unpackbits(array.astype(">u2").view(np.uint8).reshape(*SHAPE, 2), axis=2)[..., 4:].reshape(SHAPE[0], -1)
    data = np.packbits(packed, axis=1).tobytes()
    tags = {256: 9, 257: 6, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    assert (decoded(tmp_path / "a.tif", 1) == scaled(array, 0, 4095)).all()


def test_tiff_in_planes(tmp_path):
    array = values(np.uint16, (3,))
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(array, -1, 0), photometric="rgb", planarconfig="separate")
    assert (decoded(tmp_path / "a.tif") == scaled(array, 0, 65535)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_tiff_whose_zero_is_white(tmp_path, dtype):
    array = values(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    assert (decoded(tmp_path / "a.tif", 1) == 255 - scaled(array, 0, np.iinfo(dtype).max)).all()


def test_tiff_with_alpha_of_16_bits_lies_over_the_background(tmp_path):
    array = values(np.uint16, (4,))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    alpha = array[..., 3:] / 65535
    expected = array[..., :3] / 257 * alpha + (1 - alpha) * np.array([10, 200, 90])
    assert np.abs(decoded(tmp_path / "a.tif", background=(10, 200, 90)) - expected).max() < 1.6


@pytest.mark.parametrize("most", [65535, 4095])
def test_portable_graymap_of_more_bits(tmp_path, most):
    array = np.minimum(values(np.uint16), most)
    (tmp_path / "a.pgm").write_bytes(b"P5 9 6 %d\n" % most + array.astype(">u2").tobytes())
    assert (decoded(tmp_path / "a.pgm", 1) == scaled(array, 0, most)).all()
    assert (decoded(tmp_path / "a.pgm", 1, range=(100, 2000)) == scaled(array, 100, 2000)).all()


# Floats


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_float_tiff_needs_a_range(tmp_path, dtype, channels):
    array = np.random.default_rng(0).normal(0, 1, (*SHAPE, *channels)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb" if channels else "minisblack")
    with pytest.raises(
        UnfitError, match=rf"a\.tif holds float{array.itemsize * 8} numbers, .* set data\.source\.range="
    ):
        decoded(tmp_path / "a.tif")
    expected = scaled(array, -1.5, 2)
    assert (decoded(tmp_path / "a.tif", range=(-1.5, 2)) == (expected if channels else grey(expected))).all()


def test_a_float_tiff_with_a_hole_is_refused(tmp_path):
    array = np.ones(SHAPE, np.float32)
    array[2, 2] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(UnfitError, match=r"a\.tif holds values that are not finite"):
        decoded(tmp_path / "a.tif", range=(0, 2))


# 8 bits


def test_eight_bits_are_scaled_by_a_range_of_theirs_only(tmp_path):
    array = values(np.uint8, (3,))
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png", range=(20, 120)) == scaled(array, 20, 120)).all()
    assert (decoded(tmp_path / "a.png", range=(0, 255)) == array).all()
    with pytest.raises(
        UnfitError, match=r"a\.png has 8 bits a channel, and data\.source\.range=\[0,4095\] is for more"
    ):
        decoded(tmp_path / "a.png", range=(0, 4095))


def test_a_range_leaves_alpha_alone(tmp_path):
    array = values(np.uint8, (4,))
    Image.fromarray(array).save(tmp_path / "a.png")
    alpha = array[..., 3:] / 255
    expected = scaled(array[..., :3], 20, 120) * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(tmp_path / "a.png", range=(20, 120)) - expected).max() < 1


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_alpha_lies_over_the_background(tmp_path, suffix, background):
    array = values(np.uint8, (4,))
    array[0, 0, 3], array[0, 1, 3] = 0, 255
    Image.fromarray(array).save(
        tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {})
    )
    alpha = array[..., 3:] / 255
    got = decoded(tmp_path / f"a.{suffix}", background=background)
    assert np.abs(got - (array[..., :3] * alpha + (1 - alpha) * np.array(background))).max() < 1
    assert got[0, 0].tolist() == list(background)
    assert (got[0, 1] == array[0, 1, :3]).all()


def test_grey_with_alpha(tmp_path):
    array = values(np.uint8, (2,))
    Image.fromarray(array).save(tmp_path / "a.png")
    alpha = array[..., 1] / 255
    assert np.abs(decoded(tmp_path / "a.png", 1) - (array[..., 0] * alpha + 255 * (1 - alpha))).max() < 1


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_palette(tmp_path, suffix):
    numbers = np.random.default_rng(0).integers(0, 7, SHAPE).astype(np.uint8)
    colours = values(np.uint8, (3,), seed=1).reshape(-1, 3)[:7]
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a.{suffix}")
    assert (decoded(tmp_path / f"a.{suffix}") == colours[numbers]).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_a_transparent_colour(tmp_path, suffix):
    numbers = np.random.default_rng(0).integers(0, 7, SHAPE).astype(np.uint8)
    colours = values(np.uint8, (3,), seed=1).reshape(-1, 3)[:7]
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a.{suffix}", transparency=3)
    colours[3] = 255
    assert (decoded(tmp_path / f"a.{suffix}") == colours[numbers]).all()


def test_cmyk(tmp_path):
    array = values(np.uint8, (4,))
    Image.fromarray(array, "CMYK").save(tmp_path / "a.tif")
    inks = array.astype(np.float64) / 255
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    assert np.abs(decoded(tmp_path / "a.tif") - expected).max() < 1


def test_black_and_white_is_0_and_255(tmp_path):
    array = np.random.default_rng(0).integers(0, 2, SHAPE).astype(bool)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png", 1) == 255 * array).all()


def test_one_channel_stays_as_it_is(tmp_path):
    array = values(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png", 1) == array).all()
    assert (decoded(tmp_path / "a.png", 3) == grey(array)).all()


TURNED = {  # EXIF 2.32, table 6: what is seen, of what is stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg", "grey.tif"])
def test_exif_turns_the_image(tmp_path, orientation, suffix):
    array, path = values(np.uint8, (3,)), tmp_path / f"a.{suffix}"
    if suffix == "grey.tif":
        array = array[..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    stored = array
    if suffix == "jpg":
        Image.fromarray(array).save(tmp_path / "plain.jpg")
        stored = np.asarray(Image.open(tmp_path / "plain.jpg"))
    assert (decoded(path, 3 if array.ndim == 3 else 1) == TURNED[orientation](stored)).all()


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint16, ()), (np.uint16, (3,)), (np.uint32, (3,))])
def test_tiff_of_more_bits_is_turned_too(tmp_path, orientation, dtype, channels):
    array, path = values(dtype, channels), tmp_path / "a.tif"
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(path, array, photometric="rgb" if channels else "minisblack", extratags=[tag])
    expected = TURNED[orientation](scaled(array, 0, np.iinfo(dtype).max))
    assert (decoded(path) == (expected if channels else grey(expected))).all()


def test_unreadable_exif_turns_nothing(tmp_path):
    array = values(np.uint8, (3,))
    Image.fromarray(array).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert (decoded(tmp_path / "a.png") == array).all()


# Several pictures in a file


@pytest.mark.parametrize("deep", [False, True, "colour"])
def test_the_first_page_of_a_tiff(tmp_path, deep):
    pages = [values(np.uint16 if deep else np.uint8, (3,) if deep == "colour" else (), seed) for seed in range(3)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb" if deep == "colour" else "minisblack")
    picture = decode(str(tmp_path / "a.tif"), Reading(3 if deep == "colour" else 1))
    assert picture.more
    assert (np.asarray(picture.bands[0]) == scaled(pages[0], 0, 65535 if deep else 255)).all()
    tifffile.imwrite(tmp_path / "one.tif", pages[0], photometric="rgb" if deep == "colour" else "minisblack")
    assert not decode(str(tmp_path / "one.tif"), Reading(1)).more


def test_the_first_frame_of_a_gif(tmp_path):
    frames = [Image.fromarray(np.full(SHAPE, level, np.uint8)) for level in (30, 220, 120)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = decode(str(tmp_path / "a.gif"), Reading(1))
    assert picture.more
    assert (np.asarray(picture.bands[0]) == 30).all()
    frames[0].save(tmp_path / "one.gif")
    assert not decode(str(tmp_path / "one.gif"), Reading(1)).more


# Other numbers of channels


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("dtype", "ends"), [(np.uint8, None), (">u2", None), (np.float32, (-1, 2)), (np.int16, (0, 99))]
)
def test_arrays_of_any_number_of_channels(tmp_path, first, dtype, ends):
    array = np.random.default_rng(0).uniform(-3 if np.dtype(dtype).kind != "u" else 0, 200, (*SHAPE, 5)).astype(dtype)
    np.save(tmp_path / "a.npy", np.moveaxis(array, -1, 0) if first else array)
    bands = decode(str(tmp_path / "a.npy"), Reading(5, range=ends)).bands
    low, high = ends or (0, np.iinfo(dtype).max)
    assert (np.stack([np.asarray(band) for band in bands], axis=2) == scaled(array, low, high)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 6)), r"has the shape \[5, 6\]: data\.channels=5 needs \[5, height, width\] or"),
        (np.zeros((6, 7, 4), np.uint8), r"has the shape \[6, 7, 4\]: data\.channels=5 needs"),
        (np.zeros((5, 6, 5), np.uint8), r"has the shape \[5, 6, 5\], which may be either: data\.channels=5 needs"),
        (np.zeros((5, 0, 6), np.uint8), r"has the shape \[5, 0, 6\]: data\.channels=5 needs"),
        (np.zeros((5, 6, 7)), r"holds float64 numbers, .* set data\.source\.range"),
        (np.zeros((5, 6, 7), complex), r"holds values of type complex128, which are no grey values"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnfitError, match=r"a\.npy " + message):
        decode(str(tmp_path / "a.npy"), Reading(5))


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"a\.npy cannot be decoded"):
        decode(str(tmp_path / "a.npy"), Reading(5))


# Any of them, from an open file


@pytest.mark.parametrize("kind", ["jpg", "colour.png", "deep.tif", "odd.tif"])
def test_an_open_file_is_as_good_as_its_path(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "jpg":
        Image.fromarray(values(np.uint8, (3,))).save(path)
    elif kind == "colour.png":
        write_png(path, values(np.uint16, (3,)))
    else:
        tifffile.imwrite(path, values(np.uint16 if kind == "deep.tif" else np.uint32, (3,)), photometric="rgb")
    with open(path, "rb") as file:
        (band,) = decode(file, Reading(3), name="row 7").bands
    assert (np.asarray(band) == decoded(path)).all()


def test_an_empty_file_is_called_so(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigError, match=r"a\.png cannot be decoded \(it is empty\)"):
        decode(str(tmp_path / "a.png"), Reading(3))
