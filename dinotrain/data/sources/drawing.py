"""What drawn pictures are made of: random numbers, grounds, light, and objects of ten shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

NUMBERS = 15
"""Random numbers that an object's size, form and colours take."""

_CONTRAST = (0.35, 0.55)  # luminance of an object less that of the ground at its middle, of 0..1
_REACH = 2.2  # no shape of a unit disc's area reaches further from its middle than this
_TABLE = 160  # points along a side of the table of a shape
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: the plane is folded onto half a point, which one line bounds."""
    angle, radius = np.arctan2(x, y) % (2 * np.pi / 5) - np.pi / 5, np.hypot(x, y)
    return 0.83 * (radius * np.cos(angle) - 0.42) - 0.56 * radius * np.abs(np.sin(angle))


# Signed distance (or a bound on it) to the edge of each shape, negative inside, in units of the shape's own.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 1) - 0.3,
    "square": lambda x, y: _box(x, y, 1, 1),
    "triangle": lambda x, y: np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - 0.5,
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 1, 0.27), _box(x, y, 0.27, 1)),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.55, y)),
    "bar": lambda x, y: _box(x, y, 1.3, 0.4),
    "hourglass": lambda x, y: np.maximum(np.abs(y) - 1, 0.8 * np.abs(x) - 0.6 * np.abs(y) - 0.1),
    "arch": lambda x, y: np.maximum(_box(x, y, 1, 1), -_box(x, y + 0.5, 0.45, 1)),
}


def uniform(key: int, rows: np.ndarray, count: int) -> Float32[np.ndarray, "n count"]:
    """Numbers in [0, 1) that depend on the key, the row's number and the column only."""
    start = _mix(np.array([key % 2**64], np.uint64))
    base = _mix(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start)
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    return (_mix(base[:, None] + columns) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, on uint64: unlike numpy's generators it draws all images' numbers at once."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers of 0..1 -> low..high."""
    return low + (high - low) * u


def shape_tables() -> Float32[np.ndarray, "classes points points"]:
    """Signed distance, [y, x] over -_REACH.._REACH, of each shape moved to its centroid and scaled to area pi."""
    axis = np.linspace(-_REACH, _REACH, _TABLE)
    x, y = np.meshgrid(axis, axis)
    tables = []
    for field in SHAPES.values():
        inside = field(x, y) < 0
        scale = np.sqrt(inside.mean() * (2 * _REACH) ** 2 / np.pi)
        tables.append(field(x * scale + x[inside].mean(), y * scale + y[inside].mean()) / scale)
    return np.stack(tables).astype(np.float32)


def ground(u: np.ndarray, v: np.ndarray, size: int) -> Float32[np.ndarray, "n size size 3"]:
    """Dim patches of colour under a finer texture, from random numbers [n, 4 * 4 * 3] and [n, 9 * 9 * 3]."""
    return between(_smooth(u, 4, size), 0.05, 0.5) + 0.15 * (_smooth(v, 9, size) - 0.5)


def _smooth(u: np.ndarray, points: int, size: int) -> np.ndarray:
    """Random numbers on a coarse grid, [n, points * points * 3], bent into a picture [n, size, size, 3]."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * (points - 1)
    low = at.astype(int)
    part = (at - low) ** 2 * (3 - 2 * (at - low))
    bend = np.zeros((size, points), np.float32)
    bend[np.arange(size), low], bend[np.arange(size), low + 1] = 1 - part, part
    down = np.matmul(bend, u.reshape(len(u), points, points * 3))
    return np.matmul(bend, down.reshape(len(u), size, points, 3))


def light(u: np.ndarray, size: int) -> Float32[np.ndarray, "n size size 1"]:
    """A level of light with a slope in some direction, from random numbers [n, 3 or more]."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    turn, slope, level = 2 * np.pi * u[:, 0], between(u[:, 1], 0, 0.3), between(u[:, 2], 0.75, 1.15)
    across, down = (slope * np.cos(turn))[:, None, None], (slope * np.sin(turn))[:, None, None]
    return (level[:, None, None] + across * axis + down * axis[:, None])[..., None].astype(np.float32)


class Covered(NamedTuple):
    """Pixels that objects cover, wholly or in part."""

    owner: np.ndarray
    """The object of each, [points]."""
    pixel: np.ndarray
    """Where each is among the pixels of all pictures, [points]."""
    cover: np.ndarray
    """The share of each that is covered, above 0 to 1, [points]; above a half where its middle is."""
    x: np.ndarray
    """Where each is in coordinates of its object's shape, [points]."""
    y: np.ndarray


def covered(
    drawn: np.ndarray,
    size: int,
    middles: np.ndarray,
    radius: np.ndarray,
    reach: int,
    labels: np.ndarray,
    tables: np.ndarray,
    u: np.ndarray,
) -> Covered:
    """The pixels of one object in each of some pictures.

    Args:
        drawn: numbers of the pictures [n].
        size: side of the pictures in pixels.
        middles: (x, y) of the objects in pixels [n, 2], within the pictures.
        radius: that of a disc of each object's area, in pixels [n].
        reach: how far from their middles pixels are looked at, along rows and columns.
        labels: shapes by number [n].
        tables: the shapes, as `shape_tables` gives them.
        u: random numbers [n, NUMBERS].
    """
    middle_x, middle_y = middles.T
    window = np.arange(-reach, reach + 1)
    # at the border the window is pressed flat: a pixel met twice is given one value twice
    pixel_x = np.clip(middle_x.astype(int)[:, None] + window, 0, size - 1)
    pixel_y = np.clip(middle_y.astype(int)[:, None] + window, 0, size - 1)
    offset_x = (pixel_x + 0.5 - middle_x[:, None]) / radius[:, None]
    offset_y = (pixel_y + 0.5 - middle_y[:, None]) / radius[:, None]
    x, y = _to_shape(u, offset_x.astype(np.float32)[:, None, :], offset_y.astype(np.float32)[:, :, None])
    distance = _look_up(tables, labels, x, y)
    cover = np.clip(0.5 - distance * radius.astype(np.float32)[:, None, None], 0, 1)
    # a seventh of the window is covered: the colours are worked out there only
    points = np.flatnonzero(cover > 0)
    owner, place = np.divmod(points, len(window) ** 2)
    row, column = np.divmod(place, len(window))
    cover, x, y = (values.reshape(-1)[points] for values in (cover, x, y))
    pixel = (drawn[owner] * size + pixel_y[owner, row]) * size + pixel_x[owner, column]
    return Covered(owner, pixel, cover, x, y)


def paint(canvas: np.ndarray, points: Covered, under: np.ndarray, u: np.ndarray) -> None:
    """Puts objects onto pictures, in place, each in colours lighter than what is under it.

    Args:
        canvas: the pictures [pictures, size, size, 3].
        points: what the objects cover.
        under: the colours at the objects' middles that they are to stand out from [n, 3].
        u: random numbers [n, NUMBERS].
    """
    colors = _colors(u, under, points.owner, points.x, points.y)
    pixels = canvas.reshape(-1, 3)
    pixels[points.pixel] += points.cover[:, None] * (colors - pixels[points.pixel])


def at(canvas: np.ndarray, drawn: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Colours [n, 3] of the pictures `drawn` [n] of a canvas at places (x, y) in pixels [n, 2]."""
    x, y = middles.T
    return canvas[drawn, y.astype(int), x.astype(int)]


def _to_shape(u: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in the image -> coordinates of the shape: slant and stretch, then tilt and mirror; areas are kept."""
    tilt, stretch = between(u[:, 1], -0.3, 0.3), np.exp(between(u[:, 2], -0.15, 0.15))
    slant, mirror = between(u[:, 3], -0.15, 0.15) * stretch, np.where(u[:, 4] < 0.5, -1, 1)
    cos, sin = np.cos(tilt), np.sin(tilt)
    rows = (mirror * cos * stretch, mirror * (cos * slant + sin / stretch), -sin * stretch, cos / stretch - sin * slant)
    a, b, c, d = (row.astype(np.float32)[:, None, None] for row in rows)
    return a * x + b * y, c * x + d * y


def _look_up(tables: np.ndarray, labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance at points [n, h, w] of the shapes of n objects; beyond the table its border's, all outside."""
    scale, half = np.float32((_TABLE - 1) / (2 * _REACH)), np.float32(_TABLE / 2)
    across, down = (np.clip(v * scale + half, 0, _TABLE - 1).astype(np.int32) for v in (x, y))
    return tables.reshape(-1)[labels.astype(np.int32)[:, None, None] * _TABLE**2 + down * _TABLE + across]


def _colors(u: np.ndarray, under: np.ndarray, owner: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours [points, 3] of points of the objects: two of nearly one luminance, in soft stripes.

    u random numbers of the objects [n, NUMBERS]; under the ground's colour at their middles [n, 3]; owner the object
    of each point [points]; x, y the points in coordinates of the shape [points].
    """
    first = between(u[:, 5:8], 0.05, 0.95)
    first += (under @ _LUMA + between(u[:, 8], *_CONTRAST) - first @ _LUMA)[:, None]
    second = first + between(u[:, 9:12], -0.25, 0.25)
    second -= ((second - first) @ _LUMA * 0.6)[:, None]
    rate, angle = between(u[:, 12], 0.5, 6), 2 * np.pi * u[:, 13]
    along, across, phase = (v.astype(np.float32)[owner] for v in (rate * np.cos(angle), rate * np.sin(angle), u[:, 14]))
    part = 0.5 + 0.5 * np.cos(along * x + across * y + np.float32(2 * np.pi) * phase)
    return first[owner] + part[:, None] * (second - first)[owner]
