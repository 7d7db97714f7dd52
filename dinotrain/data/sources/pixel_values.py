"""Image files whose pixels are numbers rather than colours."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import read_file
from dinotrain.errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BITS, _PNG_COLOURS, _PNG_GREY = 24, 25, 0  # places in the header (PNG, section 11.2.1), and colour type grey


def read_named(path: bytes, name: str) -> bytes:
    """The bytes of a file that belongs to an image; raises `BrokenImage` that tells it by its own name."""
    try:
        return read_file(path)
    except BrokenImage as error:
        raise BrokenImage(f"{name}: {error.reason}") from error


def read_values(data: bytes, name: str) -> np.ndarray:
    """The numbers [H, W] that an image file holds, exactly: places in the palette, grey values, or floating point.

    Args:
        data: the whole file.
        name: printable name of the file.

    Raises:
        BrokenImage: the file is damaged, or no image.
        UserError: it holds colours, or was compressed in a way that changes numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                kind, mode, values = image.format, image.mode, np.asarray(image)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BrokenImage(f"{name} is not an image in any format that Pillow reads") from error
    except Exception as error:  # Pillow's plugins raise nearly every type
        raise BrokenImage(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error
    if kind in ("JPEG", "MPO"):
        raise UserError(f"data.root: {name} is a JPEG, whose compression changes numbers; expected a PNG")
    if values.ndim == 3:
        return _grey(values, mode, name)
    return values // _spread(data) if mode == "L" else values.astype(np.uint8) if mode == "1" else values


def _grey(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """The one channel that some tools write three or four times."""
    colours, rest = (values[..., :1], values[..., 1:]) if mode == "LA" else (values[..., :3], values[..., 3:])
    if mode not in ("LA", "RGB", "RGBA") or (colours != colours[..., :1]).any() or (rest != 255).any():
        raise UserError(f"data.root: {name} holds colours (mode {mode}), expected numbers: a grey or palette PNG")
    return colours[..., 0]


def _spread(data: bytes) -> int:
    """What Pillow multiplied the grey values of a PNG of 2 or 4 bits with, so that white is 255."""
    if data.startswith(_PNG) and data[_PNG_COLOURS] == _PNG_GREY and data[_PNG_BITS] in (2, 4):
        return 255 // (2 ** data[_PNG_BITS] - 1)
    return 1
