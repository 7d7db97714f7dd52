"""What is done to one image, in a worker."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch.nn.functional import interpolate

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import EXTENSIONS, decode
from dinotrain.data.source import Source
from dinotrain.preparing.perceptual_hash import perceptual_hash

_USUAL = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "TIFF": "tif",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "PPM": "ppm",
}
_ORIENTATION_TAG = 0x0112
_HASHED_SIDE = 128  # pixels; a picture of this shorter side has all that its hash is made of
_LONGEST = 65_500  # pixels of a side that a JPEG file can have


class Converted(NamedTuple):
    """One image as it goes into a shard; or, with a reason, one that can't."""

    index: int
    """Number in the source."""
    data: bytes = b""
    extension: str = ""
    format: str = ""
    """Of the original, as Pillow names it; "pixels" where the source has no files."""
    bytes_in: int = 0
    size_in: tuple[int, int] = (0, 0)
    """Width and height in pixels, upright."""
    size_out: tuple[int, int] = (0, 0)
    digest: int = 0
    """64 bits of the SHA-256 of the original."""
    hash: int | None = None
    """Perceptual hash."""
    reason: str | None = None
    """Why it is left out."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Bytes of an image file, or pixels -> the bytes to keep.

    A file is kept as it is, byte for byte, unless its shorter side is above `resize_short`: then it becomes a JPEG file
    of what training would see of it (upright, RGB, transparency over white). Pixels become a PNG file, or where they
    are shrunk, JPEG.

    Args:
        resize_short: greatest length of the shorter side in pixels; None for any.
        quality: of the JPEG files that are written, 1..100; the chroma is halved (4:2:0).
        verify: whether to decode images that are kept as they are. Without that only their headers are looked at.
    """

    resize_short: int | None = None
    quality: int = 90
    verify: bool = True

    def __call__(self, source: Source, index: int) -> Converted:
        """Read and convert one image."""
        try:
            data = source.read(index)
            if isinstance(data, bytes):
                return self._file(index, data, source.min_size)
            return self._pixels(index, data)
        except BrokenImage as error:
            return Converted(index, reason=error.reason)

    def _file(self, index: int, data: bytes, min_size: int) -> Converted:
        format, size = _header(data, min_size)
        kept = Converted(index, data, _extension(format), format, len(data), size, size, digest(data))
        if self._too_large(size):
            # At half size it is still at least twice as large as what will be made of it: no difference that shows.
            least = 2 * (self.resize_short or 1)
            return self._shrunk(kept, decode(data, admits=lambda height, width: min(height, width) >= least))
        if self.verify:
            decode(data, admits=lambda height, width: True)
        return kept

    def _pixels(self, index: int, pixels: UInt8[np.ndarray, "H W 3"]) -> Converted:
        size = (pixels.shape[1], pixels.shape[0])
        kept = Converted(index, b"", "png", "pixels", pixels.nbytes, size, size, digest(pixels))
        if self._too_large(size):
            return self._shrunk(kept, pixels)
        return kept._replace(data=_encode(pixels, "PNG"))

    def _too_large(self, size: tuple[int, int]) -> bool:
        return self.resize_short is not None and min(size) > self.resize_short

    def _shrunk(self, kept: Converted, pixels: UInt8[np.ndarray, "H W 3"]) -> Converted:
        assert self.resize_short is not None
        pixels = shrink(pixels, self.resize_short)
        height, width = pixels.shape[:2]
        if width > _LONGEST or height > _LONGEST:
            raise BrokenImage(f"{width}x{height} px after shrinking, more than a JPEG file can have")
        data = _encode(pixels, "JPEG", quality=self.quality, subsampling="4:2:0")
        return kept._replace(data=data, extension="jpg", size_out=(width, height))


class Look:
    """What one image looks like, without bytes to keep."""

    def __call__(self, source: Source, index: int) -> Converted:
        """Read and decode one image, and take its perceptual hash."""
        try:
            data = source.read(index)
            if not isinstance(data, bytes):
                size = (data.shape[1], data.shape[0])
                return Converted(
                    index, bytes_in=data.nbytes, size_in=size, digest=digest(data), hash=perceptual_hash(data)
                )
            _, size = _header(data, source.min_size)
            pixels = decode(data, admits=lambda height, width: min(height, width) >= _HASHED_SIDE)
            return Converted(index, bytes_in=len(data), size_in=size, digest=digest(data), hash=perceptual_hash(pixels))
        except BrokenImage as error:
            return Converted(index, reason=error.reason)


def digest(data: bytes | UInt8[np.ndarray, "H W 3"]) -> int:
    """64 bits of the SHA-256 of a file, or of pixels and their shape."""
    if not isinstance(data, bytes):
        data = str(data.shape).encode() + data.tobytes()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def shrink(pixels: UInt8[np.ndarray, "H W 3"], short: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with a shorter side of `short` pixels, bicubic and antialiased; the shape is kept to half a pixel."""
    height, width = pixels.shape[:2]
    scale = short / min(height, width)
    size = [max(1, round(side * scale)) for side in (height, width)]
    # With the channels last in memory 8-bit pixels are resized as such, several times as fast as by Pillow.
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = interpolate(planes, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _encode(pixels: UInt8[np.ndarray, "H W 3"], format: str, **options: int | str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def _header(data: bytes, min_size: int) -> tuple[str, tuple[int, int]]:
    """Format, upright width and height of an image file, without decoding it.

    Raises:
        BrokenImage: it has none, or is too small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size[::-1] if _is_turned(image) else image.size
                format = image.format or ""
    except Exception:  # Pillow's plugins raise nearly every type of error on damaged files
        width = height = 0
        format = ""
    if min(width, height) < max(min_size, 1):
        decode(data, min_size=min_size)  # says why
        raise BrokenImage("its header can't be read")
    return format, (width, height)


def _is_turned(image: Image.Image) -> bool:
    """Whether the camera was held sideways (EXIF 2.32, tag 0x0112)."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    except Exception:  # damaged metadata
        return False


def _extension(format: str) -> str:
    """Ending of the name of a file, by what it really is."""
    if format not in _USUAL:
        Image.init()
        known = sorted(ending for ending, name in Image.registered_extensions().items() if name == format)
        return next((ending[1:] for ending in known if ending in EXTENSIONS), format.lower())
    return _USUAL[format]
