"""Pictures of dense predictions beside the images and the truth."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from dinotrain.data.dense import IGNORE
from dinotrain.evaluation.dense.views import resized
from dinotrain.evaluation.setting import Setting

_HEIGHT = 160
_WIDEST = 320
_GAP = 6
_GOLDEN = 0.618034
_FIRST_HUE = 0.6
_LEGEND = 24
_STRENGTH = 0.6
_UNKNOWN = 128
_BAR, _LETTERS = 14, 12

Rgb = UInt8[np.ndarray, "_ _ 3"]


class Gallery:
    """Pictures of some test images, evenly spread over them, from whichever process they are measured on."""

    def __init__(self, setting: Setting, count: int) -> None:
        total = len(setting.test)
        self.world, self.rows = setting.world, {total * number // count for number in range(min(count, total))}
        self.lines: dict[int, list[Rgb]] = {}

    def wants(self, row: int) -> bool:
        """Whether the image in this row of the split is one of them."""
        return row in self.rows

    def add(self, row: int, pictures: Sequence[Rgb]) -> None:
        """What is shown of it, from left to right."""
        self.lines[row] = [_tile(picture) for picture in pictures]

    def collected(self, below: Callable[[int], Rgb | None] = lambda width: None) -> Rgb | None:
        """One sheet of all processes' pictures, with what `below` makes for its width; None if there are none."""
        lines = {row: line for part in self.world.gather(self.lines) for row, line in part.items()}
        if not lines:
            return None
        sheet = _stacked([np.concatenate(lines[row], axis=1) for row in sorted(lines)])
        foot = below(sheet.shape[1])
        return sheet if foot is None else _stacked([sheet, foot])


def class_colors(count: int) -> UInt8[np.ndarray, "C 3"]:
    """A colour for every class: neighbours in number are far apart in hue."""
    colors = []
    for number in range(count):
        value, saturation = (0.95, 0.85) if number % 2 == 0 else (0.75, 0.6)
        colors.append(colorsys.hsv_to_rgb((_FIRST_HUE + number * _GOLDEN) % 1, saturation, value))
    return (np.array(colors) * 255).round().astype(np.uint8)


def overlay(image: Rgb, mask: Int64[np.ndarray, "H W"], colors: UInt8[np.ndarray, "C 3"]) -> Rgb:
    """The image in grey under the colours of the classes; untouched where there is no class."""
    known = mask != IGNORE
    grey = image.mean(axis=2, keepdims=True)
    painted = (1 - _STRENGTH) * grey + _STRENGTH * colors[np.where(known, mask, 0)]
    return np.where(known[..., None], painted.round(), image).astype(np.uint8)


def depth_colors(depth: Float[np.ndarray, "H W"], low: float, high: float) -> Rgb:
    """Near is warm, far is cold, between `low` and `high` metres; grey where depth is 0, that is unknown."""
    from matplotlib import colormaps

    place = np.clip((high - depth) / max(high - low, 1e-6), 0, 1)
    painted = (colormaps["turbo"](place)[..., :3] * 255).round().astype(np.uint8)
    return np.where((depth > 0)[..., None], painted, _UNKNOWN).astype(np.uint8)


def depth_bar(low: float, high: float) -> Rgb:
    """The colours of `depth_colors` from the greatest depth, above, to the least, with both in metres."""
    from PIL import Image, ImageDraw, ImageFont

    depths = np.linspace(high, low, _HEIGHT)[:, None].repeat(_BAR, axis=1)
    # The ends are part of the range, also where it begins at 0.
    colors = depth_colors(np.maximum(depths, 1e-6), low, high)
    font = ImageFont.load_default(_LETTERS)
    labels = [f"{depth:.2f} m" for depth in (high, low)]
    strip = Image.new("RGB", (_BAR + _GAP + int(max(map(font.getlength, labels))) + _GAP, _HEIGHT), "white")
    strip.paste(Image.fromarray(colors), (0, 0))
    draw = ImageDraw.Draw(strip)
    for label, place, anchor in zip(labels, (0, _HEIGHT), ("lt", "lb")):
        draw.text((_BAR + _GAP, place), label, "black", font, anchor=anchor)
    return np.array(strip)


def legend(names: Sequence[str], colors: UInt8[np.ndarray, "C 3"], width: int) -> Rgb | None:
    """The names of the classes beside their colours; None where there are too many to tell apart."""
    from PIL import Image, ImageDraw, ImageFont

    if len(names) > _LEGEND:
        return None
    font = ImageFont.load_default()
    cells, x, y = [], _GAP, _GAP
    for name in names:
        needed = 18 + int(font.getlength(name)) + 12
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + 18
        cells.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, y + 18 + _GAP), "white")
    draw = ImageDraw.Draw(strip)
    for name, color, (left, top) in zip(names, colors.tolist(), cells):
        draw.rectangle((left, top, left + 11, top + 11), fill=tuple(color))
        draw.text((left + 16, top), name, fill="black", font=font)
    return np.asarray(strip)


def _tile(picture: Rgb) -> Rgb:
    """Within the height and width of a cell, with a white gap to the right and below."""
    height, width = picture.shape[:2]
    factor = min(_HEIGHT / height, _WIDEST / width)
    shape = (max(round(height * factor), 1), max(round(width * factor), 1))
    small = resized(torch.from_numpy(picture).permute(2, 0, 1), shape).permute(1, 2, 0).numpy()
    below = _HEIGHT - shape[0] + _GAP
    return np.pad(small, ((0, below), (0, _GAP), (0, 0)), constant_values=255)


def _stacked(parts: Sequence[Rgb]) -> Rgb:
    """Below each other, on white."""
    width = max(part.shape[1] for part in parts)
    gaps = [((0, 0), (0, width - part.shape[1]), (0, 0)) for part in parts]
    return np.concatenate([np.pad(part, gap, constant_values=255) for part, gap in zip(parts, gaps)])
