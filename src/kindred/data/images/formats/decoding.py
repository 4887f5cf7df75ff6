"""One image file -> 8 bits a channel, upright, its transparent parts over a background, the first picture of several."""

import contextlib
import os
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from kindred.data.images.formats.arrays import read_array
from kindred.data.images.formats.deep import is_deep, read_deep, read_tiff
from kindred.data.images.formats.scale import UnfitError, to_8_bits
from kindred.errors import ConfigError

TURNING = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # Pillow's keys of what may hold an orientation


class Reading(NamedTuple):
    """How a file becomes pixels: what a cache of them depends on, besides the files."""

    channels: int  # 3: colour; 1: grey; any other number: of .npy files, which then hold as many
    range: tuple[float, float] | None = None  # values that become 0 and 255; None: the ends of the file's integers
    background: tuple[int, int, int] = (255, 255, 255)  # RGB, under what is transparent


class Picture(NamedTuple):
    """A decoded image, to be cut and resized."""

    bands: tuple[Image.Image, ...]  # one image, RGB or grey; of other numbers of channels one grey image each
    more: bool = False  # the file holds further pictures

    @property
    def width(self) -> int:
        return self.bands[0].width

    @property
    def height(self) -> int:
        return self.bands[0].height

    def centre(self, size: int, enlarged: int | None = None) -> np.ndarray:
        """uint8 [C, size, size]; see `centre`."""
        return np.concatenate([pixels(centre(band, size, enlarged)) for band in self.bands])

    def crop(self, size: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """uint8 [C, size, size]: what torchvision's resized_crop makes of a PIL image (bilinear, antialiased)."""
        boxes = [band.crop((left, top, left + width, top + height)) for band in self.bands]
        return np.concatenate([pixels(box.resize((size, size), Image.Resampling.BILINEAR)) for box in boxes])


def decode(file: str | BinaryIO, reading: Reading, draft: bool = False, name: str | None = None) -> Picture:
    """The first picture in `file`.

    Args:
        file: a path, or a file that is open for reading.
        draft: read the whole file but compute an eighth of a JPEG's resolution: enough to see that it is sound.
        name: of the file, for errors; its path by default.

    Raises:
        UnfitError: the file is sound, but the settings do not say what to make of it; the message names the key.
        ValueError: naming the file, if it cannot be decoded to its end.
    """
    name = name or str(file)
    try:
        if reading.channels not in (1, 3):
            values = read_array(file, reading.channels)
            return Picture(tuple(map(Image.fromarray, to_8_bits(values, reading.range, values.dtype))))
        if not isinstance(file, str):
            return _decode_image(file, reading, draft)
        # Of a path Pillow maps the file, and takes a grey TIFF that is to be turned by 90 degrees for one that was.
        with open(file, "rb") as opened:
            return _decode_image(opened, reading, draft)
    except UnfitError as error:
        raise UnfitError(f"{name} {error}") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, zlib.error, EOFError ...
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is empty" if isinstance(file, str) and not os.path.getsize(file) else "it is no image"
        raise ConfigError(f"{name} cannot be decoded ({reason})") from error


def _decode_image(file: BinaryIO, reading: Reading, draft: bool) -> Picture:
    try:
        opened = Image.open(file)
    except Image.UnidentifiedImageError:
        if (found := read_tiff(file)) is None:
            raise
        return Picture((_finish(found[0].image(reading.range), reading),), found[1])
    with opened as image:
        more = getattr(image, "is_animated", False) and image.format != "MPO"  # whose others are previews
        if is_deep(image):
            image = read_deep(image, file).image(reading.range)
        else:
            if draft:
                image.draft(None, (image.width // 8, image.height // 8))
            image.load()
            image = _within(image, reading)
        if image.info.keys() & TURNING:  # to ask each image takes longer
            with contextlib.suppress(Exception):  # EXIF that cannot be read turns nothing
                ImageOps.exif_transpose(image, in_place=True)
        return Picture((_finish(image, reading),), more)


def _within(image: Image.Image, reading: Reading) -> Image.Image:
    """An image of 8 bits with `reading.range` brought to black and white."""
    if reading.range is None:
        return image
    clear = image.has_transparency_data
    image = image.convert("RGBA" if clear else "L" if image.mode in ("1", "L") else "RGB")
    levels = to_8_bits(np.arange(256, dtype=np.uint8), reading.range).tolist()
    bands = len(image.getbands()) - clear
    return image.point(levels * bands + list(range(256)) * clear)


def _finish(image: Image.Image, reading: Reading) -> Image.Image:
    """RGB or grey, over the background where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, tuple(reading.background))
        opaque.paste(image, mask=image)
        image = opaque
    mode = {1: "L", 3: "RGB"}[reading.channels]
    return image if image.mode == mode else image.convert(mode)


def centre(image: Image.Image, size: int, enlarged: int | None = None) -> Image.Image:
    """Shorter side resized to `enlarged` (default: `size`), then the central square of `size` pixels.

    The same pixels as torchvision's Resize (bilinear, antialiased) and CenterCrop on a PIL image.
    """
    width, height = image.size
    shorter, target = min(width, height), enlarged or size
    if shorter != target:
        width, height = (target if side == shorter else int(target * side / shorter) for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size)) if image.size != (size, size) else image


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [C, H, W], C-contiguous"""
    array = np.asarray(image)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
