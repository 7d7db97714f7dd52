"""A picture of some of the images that were converted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_TILE, _GAP, _MARGIN, _CAPTION, _TITLE = 184, 12, 28, 42, 74  # pixels
_COLUMNS, _ROWS = 8, 5
_FONT = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # has the letters of most names
_INK, _FAINT, _GROUND, _PAPER = "#1c1e21", "#767b82", "#eef0f2", "#ffffff"
_ENLARGED = 4  # times, at most, that a small picture is shown larger

SAMPLES = _COLUMNS * _ROWS


class Tile(NamedTuple):
    """One picture with two lines below it."""

    pixels: UInt8[np.ndarray, "H W 3"]
    caption: str
    detail: str


def sample_places(total: int, count: int = SAMPLES) -> list[int]:
    """Places, in a set of `total` images, of those to show: evenly spread."""
    count = min(total, count)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def contact_sheet(tiles: Sequence[Tile], title: str, facts: Iterable[str]) -> Image.Image:
    """A grid of pictures under a title and a line of facts."""
    columns = min(_COLUMNS, max(4, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    sheet = Image.new("RGB", (width, _MARGIN + _TITLE + rows * (_TILE + _CAPTION + _GAP) - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    fonts = {size: ImageFont.truetype(_FONT, size) for size in (11, 12, 14, 22)}
    draw.text((_MARGIN, _MARGIN), _fit(title, fonts[22], width - 2 * _MARGIN), _INK, fonts[22])
    draw.text((_MARGIN, _MARGIN + 36), _fit("   ".join(facts), fonts[14], width - 2 * _MARGIN), _FAINT, fonts[14])
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (_TILE + _GAP), _MARGIN + _TITLE + row * (_TILE + _CAPTION + _GAP)
        draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=_GROUND)
        picture = _fitted(tile.pixels)
        sheet.paste(picture, (left + (_TILE - picture.width) // 2, top + (_TILE - picture.height) // 2))
        draw.text((left, top + _TILE + 5), _fit(tile.caption, fonts[12], _TILE), _INK, fonts[12])
        draw.text((left, top + _TILE + 22), _fit(tile.detail, fonts[11], _TILE), _FAINT, fonts[11])
    return sheet


def _fitted(pixels: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    """As large as a tile has room for; small pictures are enlarged by whole numbers, to show their pixels."""
    picture = Image.fromarray(pixels)
    longest = max(picture.size)
    if longest <= _TILE:
        factor = min(_ENLARGED, _TILE // longest)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    size = [max(1, round(side * _TILE / longest)) for side in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the text as there is room for, with dots in its middle where some is missing."""
    if font.getlength(text) <= width:
        return text
    for kept in range(min(len(text), 2 * width) - 1, 1, -1):
        shorter = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return ""
