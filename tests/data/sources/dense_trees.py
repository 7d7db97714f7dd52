"""Small trees of images with masks or depth."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8


def write_image(path: Path, seed: int = 0, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Writes random pixels, exactly where the format allows, and returns them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_values(path: Path, values: np.ndarray, *, palette: bool = False) -> np.ndarray:
    """Writes numbers of 8 or 16 bits as a PNG in grey, or of 8 bits with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("L")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(path)
    return values


def numbers(seed: int, most: int, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Random numbers 0..most of 8 bits, in a picture."""
    return np.random.default_rng(seed).integers(0, most, size, np.uint8, endpoint=True)


def few_bits(values: np.ndarray, bits: int) -> bytes:
    """A PNG in grey of fewer than 8 bits, which Pillow reads but does not write."""
    height, width = values.shape
    rows = (np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].reshape(-1) for row in values)
    data = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
