"""Pictures of different shapes beside and below each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

HEIGHT = 200
"""px, of a row."""
WIDEST = 4 * HEIGHT
_GAP = 6


def sheet_of(rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]]) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of pictures on white, all of one height; those of one row are of one shape."""
    lines = [np.concatenate([_cell(picture) for picture in row], axis=1) for row in rows]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    return np.pad(np.concatenate(padded), ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=255)


def _cell(picture: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = picture.shape[:2]
    wide = max(round(width * HEIGHT / height), 1)
    high = HEIGHT if wide <= WIDEST else max(round(HEIGHT * WIDEST / wide), 1)
    # Patches stay squares with sharp edges where they are enlarged.
    filtering = Image.Resampling.BICUBIC if high < height else Image.Resampling.NEAREST
    scaled = np.asarray(Image.fromarray(picture).resize((min(wide, WIDEST), high), filtering))
    return np.pad(scaled, ((0, HEIGHT - high + _GAP), (0, _GAP), (0, 0)), constant_values=255)
