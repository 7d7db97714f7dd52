"""A labelled picture set drawn in the process from a seed: no download, no file.

An image holds a dozen objects of one class over a varied background. Each object has its own place, size, tilt, slant,
colours and texture, so what two crops of an image share is the shape of its objects, not their pixels. All shapes are
scaled to one area, and nothing but the shape depends on the class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from dinotrain.data.sources.memory import MemorySource

_SPLITS = {"train": 10_000, "test": 2_000}  # name -> default number of images
_CHUNK = 200  # images drawn together: keeps what is worked on near the processor's cache
_CELLS = 4  # objects stand on a jittered grid of _CELLS x _CELLS places
_OBJECTS = (11, 14)  # least and most objects in an image
_RADIUS = (0.085, 0.12)  # radius of a disc of an object's area, of the image's side
_CONTRAST = (0.35, 0.55)  # luminance of an object less that of the ground at its middle, of 0..1
_REACH = 2.2  # no shape of a unit disc's area reaches further from its middle than this
_TABLE = 160  # points along a side of the table of a shape
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_NUMBERS = 15  # random numbers an object's size, form and colours take
_LAYER = 16  # random streams below this number belong to the image, the others to its objects


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: the plane is folded onto half a point, which one line bounds."""
    angle, radius = np.arctan2(x, y) % (2 * np.pi / 5) - np.pi / 5, np.hypot(x, y)
    return 0.83 * (radius * np.cos(angle) - 0.42) - 0.56 * radius * np.abs(np.sin(angle))


# Signed distance (or a bound on it) to the edge of each shape, negative inside, in units of the shape's own.
_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
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


class EmbeddedSource(MemorySource):
    """Drawn pictures of simple objects with their class labels.

    Every run of ten images from a multiple of ten holds each class once. All images are drawn when the first is asked
    for: 3 * size^2 bytes and a fraction of a millisecond each.

    Args:
        split: "train" or "test"; the two share no image.
        size: side of an image in pixels.
        length: number of images; by default 10000 (train) or 2000 (test).
        seed: another seed gives other images of the same kind.
    """

    def __init__(self, *, split: str = "train", size: int = 48, length: int | None = None, seed: int = 0) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        length = _SPLITS[split] if length is None else length
        for name, value, least in (("size", size, 16), ("length", length, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}: got {value!r}, must be a whole number of at least {least}")
        super().__init__(name=f"embedded/{split}", length=int(length))
        self._split, self._size, self._seed = split, int(size), int(seed)
        self.classes: tuple[str, ...] = tuple(_SHAPES)
        self.labels: Int64[np.ndarray, "N"] = self._draw_labels()

    def test(self) -> EmbeddedSource | None:
        """For a train split, a test split of the same size and seed and a fifth of the images."""
        if self._split == "test":
            return None
        length = max(len(self) // 5, len(_SHAPES))
        return EmbeddedSource(split="test", size=self._size, length=length, seed=self._seed)

    def fingerprint(self) -> str:
        return f"embedded:1:{self._split}:{len(self)}:{self._size}:{self._seed}"

    def _read(self) -> UInt8[np.ndarray, "N size size 3"]:
        images = np.empty((len(self), self._size, self._size, 3), np.uint8)
        tables = _tables()
        for start in range(0, len(self), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(self)))
            images[rows] = self._draw(rows, tables)
        return images

    def _random(self, stream: int, rows: np.ndarray, count: int) -> Float32[np.ndarray, "n count"]:
        """Numbers in [0, 1) that depend on the seed, the split, the stream, the image's number and the column only."""
        return _uniform((self._seed * 2 + (self._split == "test")) * 64 + stream + 1, rows, count)

    def _draw_labels(self) -> Int64[np.ndarray, "N"]:
        runs = np.arange(-(-len(self) // len(_SHAPES)))
        order = np.argsort(self._random(0, runs, len(_SHAPES)), axis=1, kind="stable")
        return order.reshape(-1)[: len(self)].astype(np.int64)

    def _draw(self, rows: np.ndarray, tables: np.ndarray) -> UInt8[np.ndarray, "n size size 3"]:
        canvas = _ground(self._random(1, rows, 4 * 4 * 3), self._random(2, rows, 9 * 9 * 3), self._size)
        middles = _places(self._random(3, rows, 3 * _CELLS**2 + 2), self._size)
        u = self._random(4, rows, 4)
        counts = (_OBJECTS[0] + (_OBJECTS[1] - _OBJECTS[0] + 1) * u[:, 3]).astype(int)
        for layer in range(_OBJECTS[1]):
            drawn = np.flatnonzero(layer < counts)
            if len(drawn):
                numbers = self._random(_LAYER + layer, rows[drawn], _NUMBERS)
                _add_objects(canvas, drawn, middles[drawn, layer], self.labels[rows[drawn]], tables, numbers)
        return (np.clip(canvas * _light(u, self._size), 0, 1) * 255 + 0.5).astype(np.uint8)


def _uniform(key: int, rows: np.ndarray, count: int) -> Float32[np.ndarray, "n count"]:
    start = _mix(np.array([key % 2**64], np.uint64))
    base = _mix(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start)
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    return (_mix(base[:, None] + columns) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, on uint64: unlike numpy's generators it draws all images' numbers at once."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def _tables() -> Float32[np.ndarray, "classes points points"]:
    """Signed distance, [y, x] over -_REACH.._REACH, of each shape moved to its centroid and scaled to area pi."""
    axis = np.linspace(-_REACH, _REACH, _TABLE)
    x, y = np.meshgrid(axis, axis)
    tables = []
    for field in _SHAPES.values():
        inside = field(x, y) < 0
        scale = np.sqrt(inside.mean() * (2 * _REACH) ** 2 / np.pi)
        tables.append(field(x * scale + x[inside].mean(), y * scale + y[inside].mean()) / scale)
    return np.stack(tables).astype(np.float32)


def _ground(u: np.ndarray, v: np.ndarray, size: int) -> Float32[np.ndarray, "n size size 3"]:
    """Dim patches of colour under a finer texture, from random numbers [n, 4 * 4 * 3] and [n, 9 * 9 * 3]."""
    return _between(_smooth(u, 4, size), 0.05, 0.5) + 0.15 * (_smooth(v, 9, size) - 0.5)


def _smooth(u: np.ndarray, points: int, size: int) -> np.ndarray:
    """Random numbers on a coarse grid, [n, points * points * 3], bent into a picture [n, size, size, 3]."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * (points - 1)
    low = at.astype(int)
    part = (at - low) ** 2 * (3 - 2 * (at - low))
    bend = np.zeros((size, points), np.float32)
    bend[np.arange(size), low], bend[np.arange(size), low + 1] = 1 - part, part
    down = np.matmul(bend, u.reshape(len(u), points, points * 3))
    return np.matmul(bend, down.reshape(len(u), size, points, 3))


def _light(u: np.ndarray, size: int) -> Float32[np.ndarray, "n size size 1"]:
    """A level of light with a slope in some direction, from random numbers [n, 3 or more]."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    turn, slope, level = 2 * np.pi * u[:, 0], _between(u[:, 1], 0, 0.3), _between(u[:, 2], 0.75, 1.15)
    across, down = (slope * np.cos(turn))[:, None, None], (slope * np.sin(turn))[:, None, None]
    return (level[:, None, None] + across * axis + down * axis[:, None])[..., None].astype(np.float32)


def _places(u: np.ndarray, size: int) -> Float32[np.ndarray, "n cells 2"]:
    """Middles (x, y) in pixels of an image's objects, in the order in which they are painted.

    They stand on a jittered grid that begins anywhere: on a fixed one, images of a class would be alike pixel by pixel.
    """
    count = _CELLS**2
    cells = np.argsort(u[:, :count], axis=1, kind="stable")
    jitter = _between(u[:, count : 3 * count].reshape(-1, count, 2), -0.25, 0.25)
    grid = np.stack([cells % _CELLS, cells // _CELLS], axis=2) + jitter + _CELLS * u[:, None, -2:]
    return (grid % _CELLS * (size / _CELLS)).astype(np.float32).clip(0, size - 0.01)


def _add_objects(
    canvas: np.ndarray, drawn: np.ndarray, middles: np.ndarray, labels: np.ndarray, tables: np.ndarray, u: np.ndarray
) -> None:
    """Paint one object onto each picture canvas[drawn], in place.

    canvas [pictures, size, size, 3]; drawn [n]; middles (x, y) in pixels [n, 2]; labels [n]; the shapes' tables as
    `_tables` gives them; u random numbers [n, _NUMBERS].
    """
    size = canvas.shape[1]
    middle_x, middle_y = middles.T
    radius = size * _between(u[:, 0], *_RADIUS)
    reach = int(np.ceil(size * _RADIUS[1] * 1.9))
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
    covered = np.flatnonzero(cover > 0)
    owner, place = np.divmod(covered, len(window) ** 2)
    row, column = np.divmod(place, len(window))
    cover, x, y = (values.reshape(-1)[covered] for values in (cover, x, y))
    under = canvas[drawn, middle_y.astype(int), middle_x.astype(int)]
    paint = _paint(u, under, owner, x, y)
    pixels = canvas.reshape(-1, 3)
    target = (drawn[owner] * size + pixel_y[owner, row]) * size + pixel_x[owner, column]
    pixels[target] += cover[:, None] * (paint - pixels[target])


def _to_shape(u: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in the image -> coordinates of the shape: slant and stretch, then tilt and mirror; areas are kept."""
    tilt, stretch = _between(u[:, 1], -0.3, 0.3), np.exp(_between(u[:, 2], -0.15, 0.15))
    slant, mirror = _between(u[:, 3], -0.15, 0.15) * stretch, np.where(u[:, 4] < 0.5, -1, 1)
    cos, sin = np.cos(tilt), np.sin(tilt)
    rows = (mirror * cos * stretch, mirror * (cos * slant + sin / stretch), -sin * stretch, cos / stretch - sin * slant)
    a, b, c, d = (row.astype(np.float32)[:, None, None] for row in rows)
    return a * x + b * y, c * x + d * y


def _look_up(tables: np.ndarray, labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance at points [n, h, w] of the shapes of n objects; beyond the table its border's, all outside."""
    scale, half = np.float32((_TABLE - 1) / (2 * _REACH)), np.float32(_TABLE / 2)
    across, down = (np.clip(v * scale + half, 0, _TABLE - 1).astype(np.int32) for v in (x, y))
    return tables.reshape(-1)[labels.astype(np.int32)[:, None, None] * _TABLE**2 + down * _TABLE + across]


def _paint(u: np.ndarray, under: np.ndarray, owner: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours [points, 3] of points of the objects: two of nearly one luminance, in soft stripes.

    u random numbers of the objects [n, _NUMBERS]; under the ground's colour at their middles [n, 3]; owner the object
    of each point [points]; x, y the points in coordinates of the shape [points].
    """
    first = _between(u[:, 5:8], 0.05, 0.95)
    first += (under @ _LUMA + _between(u[:, 8], *_CONTRAST) - first @ _LUMA)[:, None]
    second = first + _between(u[:, 9:12], -0.25, 0.25)
    second -= ((second - first) @ _LUMA * 0.6)[:, None]
    rate, angle = _between(u[:, 12], 0.5, 6), 2 * np.pi * u[:, 13]
    along, across, phase = (v.astype(np.float32)[owner] for v in (rate * np.cos(angle), rate * np.sin(angle), u[:, 14]))
    part = 0.5 + 0.5 * np.cos(along * x + across * y + np.float32(2 * np.pi) * phase)
    return first[owner] + part[:, None] * (second - first)[owner]
