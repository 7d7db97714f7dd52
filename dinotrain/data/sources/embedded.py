"""A labelled picture set drawn in the process from a seed: no download, no file.

An image holds a dozen objects of one class over a varied background. Each object has its own place, size, tilt, slant,
colours and texture, so what two crops of an image share is the shape of its objects, not their pixels. All shapes are
scaled to one area, and nothing but the shape depends on the class.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from dinotrain.data.sources.drawing import (
    NUMBERS,
    SHAPES,
    at,
    between,
    covered,
    ground,
    light,
    paint,
    shape_tables,
    uniform,
)
from dinotrain.data.sources.memory import MemorySource

_SPLITS = {"train": 10_000, "test": 2_000}  # name -> default number of images
_CHUNK = 200  # images drawn together: keeps what is worked on near the processor's cache
_CELLS = 4  # objects stand on a jittered grid of _CELLS x _CELLS places
_OBJECTS = (11, 14)  # least and most objects in an image
_RADIUS = (0.085, 0.12)  # radius of a disc of an object's area, of the image's side
_LAYER = 16  # random streams below this number belong to the image, the others to its objects


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
        self._reach = int(np.ceil(self._size * _RADIUS[1] * 1.9))
        self.classes: tuple[str, ...] = tuple(SHAPES)
        self.labels: Int64[np.ndarray, "N"] = self._draw_labels()

    def test(self) -> EmbeddedSource | None:
        """For a train split, a test split of the same size and seed and a fifth of the images."""
        if self._split == "test":
            return None
        length = max(len(self) // 5, len(SHAPES))
        return EmbeddedSource(split="test", size=self._size, length=length, seed=self._seed)

    def fingerprint(self) -> str:
        return f"embedded:1:{self._split}:{len(self)}:{self._size}:{self._seed}"

    def _read(self) -> UInt8[np.ndarray, "N size size 3"]:
        images = np.empty((len(self), self._size, self._size, 3), np.uint8)
        tables = shape_tables()
        for start in range(0, len(self), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(self)))
            images[rows] = self._draw(rows, tables)
        return images

    def _random(self, stream: int, rows: np.ndarray, count: int) -> Float32[np.ndarray, "n count"]:
        """Numbers in [0, 1) that depend on the seed, the split, the stream, the image's number and the column only."""
        return uniform((self._seed * 2 + (self._split == "test")) * 64 + stream + 1, rows, count)

    def _draw_labels(self) -> Int64[np.ndarray, "N"]:
        runs = np.arange(-(-len(self) // len(SHAPES)))
        order = np.argsort(self._random(0, runs, len(SHAPES)), axis=1, kind="stable")
        return order.reshape(-1)[: len(self)].astype(np.int64)

    def _draw(self, rows: np.ndarray, tables: np.ndarray) -> UInt8[np.ndarray, "n size size 3"]:
        canvas = ground(self._random(1, rows, 4 * 4 * 3), self._random(2, rows, 9 * 9 * 3), self._size)
        middles = _places(self._random(3, rows, 3 * _CELLS**2 + 2), self._size)
        u = self._random(4, rows, 4)
        counts = (_OBJECTS[0] + (_OBJECTS[1] - _OBJECTS[0] + 1) * u[:, 3]).astype(int)
        for layer in range(_OBJECTS[1]):
            drawn = np.flatnonzero(layer < counts)
            if len(drawn):
                numbers = self._random(_LAYER + layer, rows[drawn], NUMBERS)
                radius, places = self._size * between(numbers[:, 0], *_RADIUS), middles[drawn, layer]
                points = covered(
                    drawn, self._size, places, radius, self._reach, self.labels[rows[drawn]], tables, numbers
                )
                paint(canvas, points, at(canvas, drawn, places), numbers)
        return (np.clip(canvas * light(u, self._size), 0, 1) * 255 + 0.5).astype(np.uint8)


def _places(u: np.ndarray, size: int) -> Float32[np.ndarray, "n cells 2"]:
    """Middles (x, y) in pixels of an image's objects, in the order in which they are painted.

    They stand on a jittered grid that begins anywhere: on a fixed one, images of a class would be alike pixel by pixel.
    """
    count = _CELLS**2
    cells = np.argsort(u[:, :count], axis=1, kind="stable")
    jitter = between(u[:, count : 3 * count].reshape(-1, count, 2), -0.25, 0.25)
    grid = np.stack([cells % _CELLS, cells // _CELLS], axis=2) + jitter + _CELLS * u[:, None, -2:]
    return (grid % _CELLS * (size / _CELLS)).astype(np.float32).clip(0, size - 0.01)
