"""Image files as strangers send them: whole, odd, and broken."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def pixels(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | None = None, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (image or Image.fromarray(pixels())).save(out, format, **options)
    return out.getvalue()


def color(red: int, green: int, blue: int) -> bytes:
    return encoded(Image.new("RGB", (24, 20), (red, green, blue)))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    frames = [Image.new("RGB", (12, 10), shade) for shade in ("red", "lime", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def broken() -> dict[str, bytes]:
    """By what is wrong with them; none of them is an image that can be read."""
    jpeg = encoded(format="JPEG")
    return {
        "empty": b"",
        "text": b"this is not an image " * 20,
        "cut jpeg": jpeg[: len(jpeg) // 2],
        "cut png": encoded()[:200],
        "cut webp": encoded(format="WEBP")[:60],
        "only a header": png_header(10, 10),
        "html": b"<!doctype html><html></html>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"></svg>',
        "zip": b"PK\x03\x04" + bytes(100),
    }
