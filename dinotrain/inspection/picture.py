"""A picture of what the student gets: images with their crops, and the masks on these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from dinotrain.inspection.examples import Example

_CELL = 224
"""Side in pixels that global crops are shown with, as near as whole multiples allow."""
_MOST = 320
"""Larger global crops are shrunk to this."""
_MARGIN, _GAP, _COLUMN_GAP, _ROW_GAP = 24, 6, 20, 26
_TITLE, _TEXT = 19, 14  # font sizes
_HEADING = 62  # height of title and legend
_CAPTION = 27  # height of the line above each row
_BASE = 12  # of that, down to the middle of its text
_PAPER, _INK, _PALE = (255, 255, 255), (32, 34, 40), (104, 108, 118)
_GLOBAL_COLORS = ((230, 97, 0), (0, 114, 178))
_LOCAL_COLOR = (255, 255, 255)
_MASK_COLOR, _GRID_COLOR = (22, 26, 38), (104, 112, 134)
_MASK_OPACITY = 0.8
_LEGEND = "outlines: what is cut out, orange and blue for the global crops; dark grid: patches the student does not see"


def crop_picture(examples: Sequence[Example], title: str) -> UInt8[np.ndarray, "H W 3"]:
    """One row for each example: the image with the boxes of its crops, its global crops with their masks, the others.

    Masked patches are dark, with a grid. All crops have one scale.
    """
    layout = _Layout(examples[0])
    top = _MARGIN + _HEADING
    height = top + len(examples) * (_CAPTION + layout.height + _ROW_GAP) - _ROW_GAP + _MARGIN
    sheet = Image.new("RGB", (layout.width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for text, size, color, middle in ((title, _TITLE, _INK, _MARGIN + 4), (_LEGEND, _TEXT, _PALE, _MARGIN + 32)):
        draw.text((_MARGIN, middle), _fitted(text, layout.width - 2 * _MARGIN, size), color, _font(size), "lm")
    for row, example in enumerate(examples):
        _draw_row(sheet, draw, layout, example, top + row * (_CAPTION + layout.height + _ROW_GAP))
    return np.array(sheet)


class _Layout:
    """Where everything stands in a row; from one example, since all have crops of the same sizes."""

    def __init__(self, example: Example) -> None:
        size = example.global_crops.shape[1]
        count, local = example.local_crops.shape[:2]
        factor = max(1, round(_CELL / size)) if size <= _MOST else _MOST / size
        self.cell = round(size * factor)
        self.local = max(1, round(local * factor))
        rows = max(1, round((self.cell + _GAP) / (self.local + _GAP)))
        self.columns = math.ceil(count / rows)
        rows = math.ceil(count / self.columns) if count else 0
        self.height = max(self.cell, rows * (self.local + _GAP) - _GAP)
        self.lefts = [_MARGIN + place * (self.cell + _COLUMN_GAP) for place in range(4)]
        end = self.lefts[3] + self.columns * (self.local + _GAP) - _GAP if count else self.lefts[3] - _COLUMN_GAP
        self.width = end + _MARGIN


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, layout: _Layout, example: Example, top: int) -> None:
    body = top + _CAPTION
    captions = [example.name, *map(_share_text, example.masks)]
    for place, caption in enumerate(captions):
        text = caption if place == 0 else f"global {place}: {caption}"
        draw.text((layout.lefts[place], top + _BASE), _fitted(text, layout.cell), _INK, _font(_TEXT), "lm")
    sheet.paste(_with_boxes(example, layout.cell), (layout.lefts[0], body))
    for view, color in enumerate(_GLOBAL_COLORS):
        left = layout.lefts[1 + view]
        sheet.paste(_masked(example.global_crops[view], example.masks[view], layout.cell), (left, body))
        draw.rectangle((left - 3, body - 3, left + layout.cell + 2, body + layout.cell + 2), outline=color, width=3)
    count = len(example.local_crops)
    if count:
        draw.text((layout.lefts[3], top + _BASE), f"{count} local", _PALE, _font(_TEXT), "lm")
    for number, crop in enumerate(example.local_crops):
        row, column = divmod(number, layout.columns)
        step = layout.local + _GAP
        sheet.paste(_scaled(crop, layout.local), (layout.lefts[3] + column * step, body + row * step))


def _share_text(mask: Bool[np.ndarray, "N"]) -> str:
    return f"{100 * mask.mean():.0f} % masked" if mask.any() else "not masked"


def _with_boxes(example: Example, cell: int) -> Image.Image:
    """The image fitted into a square cell, with an outline where each crop was cut."""
    height, width = example.image.shape[:2]
    factor = cell / max(height, width)
    small = Image.fromarray(example.image).resize(
        (max(1, round(width * factor)), max(1, round(height * factor))),
        Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS,
    )
    draw = ImageDraw.Draw(small)
    colors = [*_GLOBAL_COLORS, *[_LOCAL_COLOR] * len(example.local_crops)]
    for view in reversed(range(len(example.boxes))):  # those of the global crops above the others
        top, left, high, wide = (round(side * factor) for side in example.boxes[view])
        right, bottom = min(left + wide, small.width) - 1, min(top + high, small.height) - 1
        if view >= 2:
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_INK)
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=colors[view], width=1 + 2 * (view < 2))
    return small


def _masked(crop: UInt8[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "N"], cell: int) -> Image.Image:
    """A global crop in its cell; masked patches dark, with lines between them."""
    image = _scaled(crop, cell)
    if not mask.any():
        return image
    side = math.isqrt(len(mask))
    shade = Image.fromarray((mask.reshape(side, side) * round(255 * _MASK_OPACITY)).astype(np.uint8))
    image.paste(_MASK_COLOR, (0, 0, cell, cell), shade.resize((cell, cell), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(image)
    for row, column in np.argwhere(mask.reshape(side, side)).tolist():
        left, top = column * cell // side, row * cell // side
        right, bottom = (column + 1) * cell // side, (row + 1) * cell // side
        draw.rectangle((left, top, min(right, cell - 1), min(bottom, cell - 1)), outline=_GRID_COLOR)
    return image


def _scaled(pixels: UInt8[np.ndarray, "s s 3"], side: int) -> Image.Image:
    """Enlarged so that its pixels stay visible; or shrunk."""
    method = Image.Resampling.NEAREST if side >= len(pixels) else Image.Resampling.LANCZOS
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), method)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of matplotlib, which has the letters of many languages."""
    try:
        return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    except (OSError, ImportError):  # a Pillow without FreeType
        return ImageFont.load_default()


def _fitted(text: str, width: int, size: int = _TEXT) -> str:
    """A text that is no wider than so many pixels: the end is what tells file names apart."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text
