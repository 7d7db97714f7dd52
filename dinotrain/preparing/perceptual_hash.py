"""A 64-bit number that says what a picture looks like."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

HASH_BITS = 64
_SIDE = 32  # pixels of the reduced picture
_LOWEST = slice(1, 9)  # frequencies that are kept, along each side; 0 is the mean
_FLAT = 1.0  # levels of 0..255: a picture of less contrast looks like any other flat one
_BASIS = np.cos(np.pi / _SIDE * np.outer(np.arange(_SIDE)[_LOWEST], np.arange(_SIDE) + 0.5))  # DCT-II, unscaled


def perceptual_hash(pixels: UInt8[np.ndarray, "H W 3"]) -> int | None:
    """The DCT hash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, 3.2.1).

    The luminance is shrunk to 32x32, antialiased; of its cosine transform, 8x8 low frequencies without the first row
    and column give one bit each: whether they are above their median. Another size or JPEG quality changes few of the
    bits or none; other colours of the same luminance, none.

    Returns:
        The hash; None for a picture that is flat, and would be taken for a copy of all other flat ones.
    """
    image = Image.fromarray(pixels)
    # Three times too large by whole blocks first: as stable, and twice as fast.
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    levels = np.asarray(small.convert("L"), np.float64)
    if levels.std() < _FLAT:
        return None
    waves = (_BASIS @ levels @ _BASIS.T).ravel()
    return int.from_bytes(np.packbits(waves > np.median(waves)).tobytes(), "big")
