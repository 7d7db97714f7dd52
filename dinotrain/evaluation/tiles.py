"""Contact sheets: images as squares of one size, with coloured frames, in rows."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from jaxtyping import UInt8

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source

GREEN, ORANGE, GREY = (0, 158, 115), (213, 94, 0), (150, 150, 150)
"""Right, wrong, neither; told apart by those who can't tell green from red (Okabe and Ito 2008)."""

_SIDE, _FRAME, _GAP = 88, 4, 4
_LETTERS = 13
_NAME_LENGTH, _NAME_LINES = 16, 4


def tile(
    image: UInt8[np.ndarray, "H W 3"], color: tuple[int, int, int], *, side: int = _SIDE
) -> UInt8[np.ndarray, "s s 3"]:
    """The middle square of an image, scaled, in a frame."""
    from PIL import Image

    height, width, _ = image.shape
    short, inner = min(height, width), side - 2 * _FRAME
    top, left = (height - short) // 2, (width - short) // 2
    square = Image.fromarray(np.ascontiguousarray(image[top : top + short, left : left + short]))
    # Small pictures, such as those of CIFAR-10, would only get blurred.
    scaled = square.resize(
        (inner, inner), Image.Resampling.BICUBIC if short >= inner // 2 else Image.Resampling.NEAREST
    )
    framed = np.empty((side, side, 3), np.uint8)
    framed[:] = color
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = np.asarray(scaled)
    return framed


def tile_of(source: Source, index: int, color: tuple[int, int, int]) -> UInt8[np.ndarray, "s s 3"]:
    """The tile of an image of a source; grey if it can't be read any more, as its features were made long ago."""
    try:
        image = source.image(index)
    except BrokenImage:
        image = np.full((1, 1, 3), GREY, np.uint8)
    return tile(image, color)


def sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "s s 3"]]], *, apart: bool = False, names: Sequence[str] = ()
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of tiles on white.

    Args:
        apart: the first tile of each row stands off from the others.
        names: of the rows, at their left.
    """
    side = rows[0][0].shape[0]
    longest, lead = max(len(row) for row in rows), 4 * _GAP if apart else 0
    shape = (len(rows) * (side + _GAP) + _GAP, longest * (side + _GAP) + _GAP + lead, 3)
    picture = np.full(shape, 255, np.uint8)
    for down, row in enumerate(rows):
        for across, square in enumerate(row):
            top, left = _GAP + down * (side + _GAP), _GAP + across * (side + _GAP) + (lead if across else 0)
            picture[top : top + side, left : left + side] = square
    return np.concatenate([_names(names, side, len(picture)), picture], axis=1) if names else picture


def _names(names: Sequence[str], side: int, height: int) -> UInt8[np.ndarray, "H w 3"]:
    """A column of names, each in the middle of its row."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_LETTERS)
    shown = ["\n".join(wrap(name, _NAME_LENGTH, max_lines=_NAME_LINES, placeholder=" ...")) for name in names]
    pad = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(int(pad.multiline_textbbox((0, 0), name, font)[2]) for name in shown) + 3 * _GAP
    column = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(column)
    for down, name in enumerate(shown):
        middle = _GAP + down * (side + _GAP) + side / 2
        draw.multiline_text((width - 2 * _GAP, middle), name, "black", font, anchor="rm", align="right")
    return np.asarray(column)
