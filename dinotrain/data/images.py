"""Decode image files: any format of Pillow to upright 8-bit RGB."""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from dinotrain.data import jpeg
from dinotrain.data.broken import BrokenImage

EXTENSIONS: tuple[str, ...] = (
    *(".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".im", ".j2k", ".jfif", ".jp2", ".jpe"),
    *(".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi"),
    *(".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm"),
)
"""File names that are taken for images; what a file really is, its first bytes say."""

Admits = Callable[[int, int], bool]
"""Whether an image will do that is decoded at half its size: of this height and width in pixels, upright."""

_ORIENTATION_TAG = 0x0112
_OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_JPEG = b"\xff\xd8\xff"
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_WHITE = (255, 255, 255)
_BLOCK = 2**20


def read_file(path: str | bytes) -> bytes:
    """The bytes of one file. Raises `BrokenImage` where they can't be had."""
    try:
        # Only regular files: without O_NONBLOCK, to open a pipe would wait for ever.
        file = os.open(path, _OPENING)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise BrokenImage("is a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
            return _content(file, status.st_size)
        finally:
            os.close(file)
    except OSError as error:
        raise BrokenImage(_line(error.strerror or error)) from error


def _content(file: int, size: int) -> bytes:
    """All bytes of a file; as a rule they come in one piece of this size."""
    pieces = []
    while piece := os.read(file, max(size, 2**16)):
        pieces.append(piece)
    return b"".join(pieces)


def decode(
    data: bytes, *, min_size: int = 1, admits: Admits | None = None, formats: Sequence[str] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode the bytes of an image file.

    The EXIF orientation is applied. Transparency is composited over white. Of an animation the first frame is taken.
    16-bit grey is divided by 257 (65535 -> 255); 32-bit integer grey likewise where it lies within 16 bits, else, as
    floating-point grey, it is stretched from its least to its greatest finite value.

    Args:
        data: the whole file.
        min_size: least length of the shorter side, in pixels.
        admits: told the height and width of the upright image at half its size (rounded up), says whether that will
            do. JPEG files in grey or colour are decoded faster so; all else is decoded in full.
        formats: names, as Pillow has them, of those that are taken; None for all.

    Raises:
        BrokenImage: not an image, cut short, too many pixels (Pillow's limit of twice `Image.MAX_IMAGE_PIXELS`),
            or smaller than min_size.
    """
    if not data:
        raise BrokenImage("empty file")
    if data.startswith(_POSTSCRIPT):
        raise BrokenImage("PostScript, a program, which is not run")
    is_jpeg = data.startswith(_JPEG) and (formats is None or "JPEG" in formats)
    if is_jpeg and (pixels := _plain_jpeg(data, min_size, admits)) is not None:
        return pixels
    # Pillow's plugins raise nearly every type of error on damaged files, and warn about harmless faults.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With its format named, damaged files are not tried in all others.
            known = ("JPEG",) if is_jpeg else None if formats is None else tuple(formats)
            with Image.open(io.BytesIO(data), formats=known) as image:
                _check_size(image.size, min_size)
                if isinstance(image, JpegImageFile) and image.mode in ("L", "RGB"):
                    return _jpeg(image, data, admits)
                image.load()
                return _upright(_pixels(image), _orientation(image))
    except (BrokenImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BrokenImage("not an image in any format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels") from error
    except Exception as error:
        raise BrokenImage(_line(error)) from error


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(size: tuple[int, int], min_size: int) -> None:
    width, height = size
    if min(width, height) < min_size:
        raise BrokenImage(f"{width}x{height} px, smaller than a patch (data.min_size is {min_size})")


def _plain_jpeg(data: bytes, min_size: int, admits: Admits | None) -> UInt8[np.ndarray, "H W 3"] | None:
    """None of those that Pillow must look at."""
    size = jpeg.plain_size(data) if jpeg.decoder() == "simplejpeg" else None
    if size is None or min(size) < min_size or size[0] * size[1] > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    return jpeg.fast(data, jpeg.half_size(*size, admits) or size)


def _jpeg(image: JpegImageFile, data: bytes, admits: Admits | None) -> UInt8[np.ndarray, "H W 3"]:
    # To look for what is not there takes as long as to decode a small image.
    orientation = _orientation(image) if {"exif", "xmp"} & image.info.keys() else 1
    if admits and orientation >= 5:
        upright, admits = admits, lambda height, width: upright(width, height)
    half = jpeg.half_size(image.height, image.width, admits)
    pixels = jpeg.fast(data, half or (image.height, image.width))
    return _upright(jpeg.slow(image, half) if pixels is None else pixels, orientation)


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Decoded image of any mode -> RGB, not yet turned."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.repeat(_grey_levels(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.array(ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, _WHITE)
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return np.array(canvas)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_levels(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Grey values of more than 8 bits -> 8 bits, rounded to nearest."""
    levels = np.zeros(values.shape, np.uint8)
    flat, out = values.reshape(-1), levels.reshape(-1)
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535:
        for block in _blocks(len(flat)):
            out[block] = (flat[block].astype(np.uint32) + 128) // 257
        return levels
    low, high = _finite_range(flat)
    if low < high:
        for block in _blocks(len(flat)):
            part = flat[block].astype(np.float64)
            out[block] = np.rint((np.where(np.isfinite(part), part, low) - low) * (255 / (high - low)))
    return levels


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest finite value, the first being the greater where there is none."""
    low, high = math.inf, -math.inf
    for block in _blocks(len(values)):
        part = values[block].astype(np.float64)
        finite = part[np.isfinite(part)]
        low, high = float(finite.min(initial=low)), float(finite.max(initial=high))
    return low, high


def _blocks(length: int) -> Iterator[slice]:
    """Pieces of so many pixels: a copy of all of them in more bits would be many times as large as the image."""
    return (slice(at, at + _BLOCK) for at in range(0, length, _BLOCK))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8. Asked after loading: some formats keep it behind the pixels, or apply it themselves."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata don't make the pixels worse
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: UInt8[np.ndarray, "H W 3"], orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # What remains after the transposition is a mirroring of columns, rows or both.
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
