"""Decode JPEG files: with simplejpeg where it is installed, and at half their size where that will do.

Both decoders are libjpeg-turbo in the end, and give the same pixels. What is damaged, or unusual, Pillow decides on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

DECODERS = ("simplejpeg", "pillow")

_FRAMES, _SCAN = (0xC0, 0xC2), 0xDA  # baseline, progressive
_HUFFMAN, _QUANTIZATION, _RESTART, _COMMENT = 0xC4, 0xDB, 0xDD, 0xFE
_APPLICATIONS = {0xE0: (b"JFIF\0", 14), 0xE2: (b"ICC_PROFILE\0", 15), 0xEE: (b"Adobe", 12)}  # with the least length
_LEAST_HALVED = 16  # pixels; of less, other fractions than one half may have the same size


def decoder() -> str:
    """Which of `DECODERS` is in use: simplejpeg, an optional package, if it is there."""
    return "simplejpeg" if _library() else "pillow"


def use_decoder(name: str | None) -> None:
    """Have this process, and those forked from it, use one of `DECODERS`; None for the best that is installed."""
    if name not in (*DECODERS, None):
        raise ValueError(f"decoder: got {name!r}, must be one of {', '.join(DECODERS)}")
    _choice.clear()
    if name == "pillow":
        _choice.append(None)
    elif name == "simplejpeg":
        _choice.append(importlib.import_module(name))


_choice: list[ModuleType | None] = []
"""Nothing until it is made; then simplejpeg, or None for Pillow."""


def _library() -> ModuleType | None:
    if not _choice:
        try:
            _choice.append(importlib.import_module("simplejpeg"))
        except ImportError:
            _choice.append(None)
    return _choice[0]


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG file says it has, where its header holds nothing unusual; in a fraction of the time
    that Pillow takes to open it.

    None of all else: what is damaged, what has data that may turn the image, and what Pillow might look at twice.
    """
    size, at = None, 2
    try:
        while data[at] == 0xFF and (marker := data[at + 1]) != _SCAN:
            length = data[at + 2] << 8 | data[at + 3]
            payload = data[at + 4 : at + 2 + length]
            if marker in _FRAMES and size is None:
                if (size := _frame_size(payload)) is None:
                    return None
            elif length < 2 or not _is_plain(marker, payload):
                return None
            at += 2 + length
        return size if data[at] == 0xFF else None
    except IndexError:
        return None


def _is_plain(marker: int, payload: bytes) -> bool:
    if marker == _QUANTIZATION:  # tables of 64 numbers with 8 bits
        return len(payload) % 65 == 0 and max(payload[::65], default=16) < 16
    if marker in _APPLICATIONS:
        name, least = _APPLICATIONS[marker]
        return payload.startswith(name) and len(payload) >= least
    return marker in (_HUFFMAN, _RESTART, _COMMENT)


def _frame_size(payload: bytes) -> tuple[int, int] | None:
    """Of 8 bits in 1 or 3 colours; None if it is something else."""
    depth, height, width, colours = payload[0], payload[1] << 8 | payload[2], payload[3] << 8 | payload[4], payload[5]
    if depth != 8 or colours not in (1, 3) or len(payload) != 6 + 3 * colours or 0 in (height, width):
        return None
    return height, width


def half_size(height: int, width: int, admits: Callable[[int, int], bool] | None) -> tuple[int, int] | None:
    """Height and width of an image at half its size; None if it is too small for that, or it is not admitted."""
    if admits is None or min(height, width) < _LEAST_HALVED:
        return None
    half = -(-height // 2), -(-width // 2)
    return half if admits(*half) else None


def fast(data: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a file with simplejpeg.

    Args:
        data: the whole file, grey or in colour.
        size: height and width, before it is turned upright: its own, or half of it.

    Returns:
        None where that is not installed, and of all that is not quite as it should be: a file that is cut short, say.
    """
    if (library := _library()) is None:
        return None
    least = {"min_height": size[0], "min_width": size[1]}
    try:
        *found, space, _ = library.decode_jpeg_header(data, **least)
        if tuple(found) != size or space not in ("YCbCr", "Gray"):
            return None
        return library.decode_jpeg(data, "RGB", **least)
    except ValueError:
        return None


def slow(image: JpegImageFile, half: tuple[int, int] | None) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a grey or colour image that Pillow has opened, at half its size if that is given."""
    if half is not None:
        # The scale is the size over what is asked for, rounded down to 1, 2, 4 or 8.
        image.draft(None, (image.width // 2, image.height // 2))
        assert image.size == half[::-1]
    image.load()
    return _unpacked(image if image.mode == "RGB" else image.convert("RGB"))


def _unpacked(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """`np.array(image)` for RGB, without the two more copies of the whole image that it makes."""
    encoder_of = getattr(Image, "_getencoder", None)  # not part of Pillow's public interface
    if encoder_of is None:
        return np.array(image)
    encoder = encoder_of("RGB", "raw", ("RGB",))
    try:
        encoder.setimage(image.im, (0, 0, *image.size))
        _, status, levels = encoder.encode(3 * image.width * image.height)
    finally:
        encoder.cleanup()
    if status != 1:
        raise OSError(f"Pillow's encoder of raw pixels stopped with {status}")
    return np.asarray(_Levels(levels, (image.height, image.width, 3)))


class _Levels:
    """Bytes that nobody else holds, for an array that may be written to."""

    def __init__(self, levels: bytes, shape: tuple[int, ...]) -> None:
        self._levels = levels
        fixed = np.frombuffer(levels, np.uint8).reshape(shape).__array_interface__
        self.__array_interface__ = fixed | {"data": (fixed["data"][0], False)}
