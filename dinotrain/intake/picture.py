"""From the bytes of an image file that anybody may have made to a picture."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dinotrain.data import images
from dinotrain.data.broken import BrokenImage
from dinotrain.intake.limits import Limits
from dinotrain.intake.refused import Refused, Why

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI")
"""Those whose first bytes tell them from all others; not those of which Pillow starts other programs, as PostScript."""

MOST_SCANS = 100
"""Of a JPEG file; each passes over the whole picture, even one of a few bytes."""
_SCAN = b"\xff\xda"

FIRST_FRAME = "it has several frames; the first is taken"


class Picture(NamedTuple):
    """What an image file shows."""

    pixels: UInt8[np.ndarray, "H W 3"]
    """RGB, upright."""
    note: str | None = None
    """What is to be said of it."""


class Header(NamedTuple):
    """What is known of an image file before any pixel is decoded."""

    width: int
    height: int
    format: str
    animated: bool


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode an image file as `dinotrain.data.images.decode` does, once its header says that it is not too large.

    Raises:
        Refused: with one of few reasons, none of which is the text of a library.
    """
    return picture_of(data, header_of(data, limits), limits)


def header_of(data: bytes, limits: Limits) -> Header:
    """The first half of `decode`, which takes little time and memory; raises as that."""
    if not data:
        raise Refused("empty: 0 bytes")
    if len(data) > limits.bytes:
        raise too_many_bytes(limits)
    header = _header(data, limits)
    if header.width * header.height > limits.pixels:
        raise _too_many_pixels(limits, f"{header.width} x {header.height} px: ")
    # A marker can't be part of what is compressed; in metadata it is rare.
    if header.format == "JPEG" and data.count(_SCAN) > MOST_SCANS:
        raise Refused(f"a progressive JPEG of more than {MOST_SCANS} scans, which takes too long to decode")
    return header


def picture_of(data: bytes, header: Header, limits: Limits) -> Picture:
    """The second half of `decode`; raises as that."""
    try:
        pixels = images.decode(data, formats=[header.format])
    except BrokenImage as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise _too_many_pixels(limits) from error
        raise Refused("a damaged image, or one that is cut short") from error
    except MemoryError as error:
        raise Refused("it takes more memory than there is", Why.TOO_LARGE) from error
    if pixels.shape[0] * pixels.shape[1] > limits.pixels:
        raise _too_many_pixels(limits)
    return Picture(pixels, FIRST_FRAME if header.animated else None)


def too_many_bytes(limits: Limits) -> Refused:
    """The refusal of a file that is too large."""
    return Refused(f"more than {limits.max_mb:g} MB, the most that is taken", Why.TOO_LARGE)


def _too_many_pixels(limits: Limits, size: str = "") -> Refused:
    most = min(limits.max_megapixels, 2 * (Image.MAX_IMAGE_PIXELS or math.inf) / 10**6)  # Pillow has a limit, too
    return Refused(f"{size}more than {most:g} megapixels, the most that is taken", Why.TOO_LARGE)


def _header(data: bytes, limits: Limits) -> Header:
    # Pillow's plugins raise nearly every type of error on damaged files.
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Cameras put previews behind the picture, in what is no animation (MPO).
            if image.format == "MPO":
                return Header(*image.size, "JPEG", False)
            return Header(*image.size, str(image.format), bool(getattr(image, "is_animated", False)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    except Image.UnidentifiedImageError as error:
        raise Refused("not an image (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000, PPM or QOI)") from error
    except Exception as error:
        raise Refused("a damaged image, or one that is cut short") from error
