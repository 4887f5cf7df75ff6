"""Images of more than 8 bits a channel, which Pillow holds in part (grey) and cuts to 8 bits in part (colour)."""

from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from kindred.data.images.formats.scale import to_8_bits

ORIENTATION, PHOTOMETRIC, BITS, SAMPLE_FORMAT, SIGNED = 274, 262, 258, 339, 2  # of TIFF, the first of EXIF too
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Deep(NamedTuple):
    """Numbers as they are in the file."""

    values: np.ndarray  # [H, W] or [H, W, C]; of 2 or 4 channels the last is alpha
    top: int | None = None  # the largest number that can be, where it is not the type's
    inverted: bool = False  # 0 is white
    orientation: int = 1  # as in EXIF

    def image(self, ends: tuple[float, float] | None) -> Image.Image:
        """The image of mode L, LA, RGB or RGBA; see `to_8_bits`."""
        values, alpha = self.values, []
        if values.ndim == 3 and values.shape[2] in (2, 4):
            values, alpha = values[..., :-1], [to_8_bits(values[..., -1:], None)]
        ends = ends or (None if self.top is None else (0, self.top))
        levels = to_8_bits(values, ends)
        levels = np.dstack([255 - levels if self.inverted else levels, *alpha])
        image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
        image.getexif()[ORIENTATION] = self.orientation
        return ImageOps.exif_transpose(image)


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file that Pillow has opened, and not loaded, holds more than 8 bits a channel."""
    if image.mode == "F" or image.mode.startswith("I"):
        return True
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(BITS, (1,))) > 8 and image.mode != "CMYK"
    return image.format == "PNG" and any(";16" in str(tile[3]) for tile in image.tile)


def read_deep(image: ImageFile.ImageFile, file: BinaryIO) -> Deep:
    """The numbers of an image that `is_deep`; `file` is what it was opened from."""
    if image.format == "PNG":
        values, transparent = _read_png(image, file), image.info.get("transparency")
        if transparent is not None:  # the one colour that is
            opaque = (values.reshape(*values.shape[:2], -1) != np.array(transparent)).any(axis=2)
            values = np.dstack([values, np.where(opaque, 65535, 0).astype(np.uint16)])
        return Deep(values, orientation=image.getexif().get(ORIENTATION, 1))
    if image.format == "PPM":  # Pillow brings all to 65535
        most = image.tile[0][3][1] if isinstance(image.tile[0][3], tuple) else 65535
        return Deep(np.rint(np.asarray(image) * (most / 65535)).astype(np.uint16), most)
    if image.mode != "F" and not image.mode.startswith("I"):
        return _tiff(file)[0]
    tags = getattr(image, "tag_v2", {})
    (bits, *_), (kind, *_) = tags.get(BITS, (32,)), tags.get(SAMPLE_FORMAT, (1 if tags else SIGNED,))
    image.load()
    values = np.asarray(image)  # turned by Pillow as its tag says
    if image.mode == "I":
        values = values.astype(f"{'' if kind == SIGNED else 'u'}int{bits}")
    return Deep(values, 4095 if bits == 12 else None, tags.get(PHOTOMETRIC) == 0)


def _read_png(image: ImageFile.ImageFile, file: BinaryIO) -> np.ndarray:
    """uint16 [H, W] or [H, W, C]."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    # Of each colour Pillow keeps the byte that its raw mode says is the high one: read twice, there are both. Grey with
    # alpha has four bytes, which fit one of its pixels.
    grey = "LA" in str(image.tile[0][3])
    passes = []
    for raw in ["RGBA"] if grey else [f"{image.mode};16{end}" for end in "BL"]:
        file.seek(0)
        again = Image.open(file)
        again._mode = "RGBA" if grey else image.mode
        again.tile = [type(tile)(*tile[:3], raw) for tile in again.tile]
        passes.append(np.asarray(again).astype(np.uint16))
    if grey:
        return passes[0][..., ::2] << 8 | passes[0][..., 1::2]
    return passes[0] << 8 | passes[1]


def read_tiff(file: BinaryIO) -> tuple[Deep, bool] | None:
    """The first picture of a TIFF file that Pillow has no mode for, and whether there are more; None: it is no TIFF."""
    file.seek(0)
    start = file.read(4)
    return _tiff(file) if start in TIFF else None


def _tiff(file: BinaryIO) -> tuple[Deep, bool]:
    import tifffile  # only where there is such a file

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page, more = tiff.pages.first, len(tiff.pages) > 1
        values, meaning, extra = page.asarray(), int(page.photometric), tuple(map(int, page.extrasamples))
        turned = page.tags.get(ORIENTATION)
        if page.axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
    channels = values.shape[2] if values.ndim == 3 else 1
    expected = {0: 1, 1: 1, 2: 3}.get(meaning)
    if (
        expected is None
        or values.ndim not in (2, 3)
        or channels - len(extra) != expected
        or extra not in ((), (0,), (2,))
    ):
        raise ValueError(f"a TIFF image of the shape {list(values.shape)}, photometric interpretation {meaning}")
    if extra == (0,):  # means nothing that is known
        values = values[..., :-1]
    return Deep(values, inverted=meaning == 0, orientation=turned.value if turned else 1), more
