"""Drawn pictures of objects that stand at several distances, with exact masks and depth: no download, no file.

Objects of ten shapes stand in front of a wall, on a floor or above it. What shows how far something is, shows it in
photographs, too: things of one size look smaller, paler and hazier with distance, nearer ones cover farther ones, and
the floor rises to the horizon while its stripes crowd together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from dinotrain.data.arguments import number, whole
from dinotrain.data.dense import DenseSource, Target
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
_CHUNK = 200  # images drawn together
_OBJECTS = (7, 10)  # least and most objects in an image
_RADIUS = 0.5  # metres: of a disc of an object's area, give or take _SPREAD
_SPREAD = 0.07
_REACH = 2.05  # no object reaches further from its middle, in its radius, so that its window decides nothing
_DISTANCE = (2.2, 7.0)  # metres from the camera to objects; its focal length is the side of the image
_EYE = 1.5  # metres from the floor to the camera
_HEIGHT = (0.65, 2.1)  # metres from the floor to the middles of objects
_HORIZON = (0.35, 0.5)  # from the top, of the image's side
_WALL = (8.0, 10.0)  # metres from the camera to the wall
_HAZE = (0.06, 0.09)  # share of the light that is lost on a metre
_STRIPE = 0.12  # contrast of the stripes on the floor, two metres apart
_LARGEST_FIRST = ("disc", "square", "arch", "triangle", "crescent", "bar", "hourglass", "ring", "star", "cross")
"""Where shapes have true sizes: the more compact, the larger."""
_KEYS = 2**40  # random numbers unlike those of other drawn pictures
_LAYER = 16  # random streams below this number belong to the image, the others to its objects
_NO_OBJECT = 255


class _Pictures(NamedTuple):
    """What pictures are being drawn on."""

    canvas: Float32[np.ndarray, "n size size 3"]
    scenery: Float32[np.ndarray, "n size size 3"]
    """Without objects."""
    layers: UInt8[np.ndarray, "n size size"]
    """The object seen at each pixel."""
    depth: Float32[np.ndarray, "n size size"]
    """Metres to what is seen."""


class ScenesSource(MemorySource, DenseSource):
    """Drawn scenes of seven to ten objects, with the mask and the depth of every pixel.

    Class 0 of the masks is the background, the others are the shapes; a pixel belongs to the object that its middle
    lies in. All images are drawn when the first is asked for: 4 * size^2 bytes and a fraction of a millisecond each.

    Args:
        split: "train" or "test"; the two share no image.
        size: side of an image in pixels.
        length: number of images; by default 10000 (train) or 2000 (test).
        seed: another seed gives other images of the same kind.
        kinds: most different shapes in an image; by default each object has any of the ten. With 1, images are as those
            of `EmbeddedSource`, from which networks learn what the objects of an image share.
        true_sizes: how many times as large things of the largest shape are as things of the smallest; needs kinds=1.
            A small thing near by looks as a large one far off: whole scenes are scaled, their pictures stay the same,
            and metres can be told only by who knows what the shape is.
    """

    targets = ("masks", "depth")
    classes: tuple[str, ...] = ("background", *SHAPES)
    max_depth: float = _WALL[1]

    def __init__(
        self,
        *,
        split: str = "train",
        size: int = 48,
        length: int | None = None,
        seed: int = 0,
        kinds: int | None = None,
        true_sizes: float = 1.0,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        self._split, self._size, self._seed = split, whole("size", size, 16), whole("seed", seed, 0)
        super().__init__(
            name=f"scenes/{split}", length=whole("length", _SPLITS[split] if length is None else length, 1)
        )
        self._layers: np.ndarray | None = None
        rows = np.arange(len(self))
        u = self._random(0, rows, 4)
        self._horizon = between(u[:, 0], *_HORIZON) * self._size
        self._wall = between(u[:, 1], *_WALL)
        self._haze = between(u[:, 2], *_HAZE)
        self._distance = self._distances(rows, (_OBJECTS[0] + (_OBJECTS[1] - _OBJECTS[0] + 1) * u[:, 3]).astype(int))
        self._kinds = len(SHAPES) if kinds is None else whole("kinds", kinds, 1, len(SHAPES))
        self._shapes = self._draw_shapes(rows)
        self._true_sizes = number("true_sizes", true_sizes, 1)
        if self._true_sizes > 1 and self._kinds > 1:
            raise ValueError(f"true_sizes: got {true_sizes} with kinds={kinds}, must be with kinds=1")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_layers": None}

    def test(self) -> ScenesSource | None:
        """For a train split, a test split of the same size and seed and a fifth of the images."""
        if self._split == "test":
            return None
        length = max(len(self) // 5, 1)
        return ScenesSource(
            split="test",
            size=self._size,
            length=length,
            seed=self._seed,
            kinds=self._kinds,
            true_sizes=self._true_sizes,
        )

    def fingerprint(self) -> str:
        return f"scenes:1:{self._split}:{len(self)}:{self._size}:{self._seed}:{self._kinds}:{self._true_sizes:g}"

    def target_name(self, index: int, target: Target) -> str:
        """Name of the image, and what is meant of it."""
        return f"{self.name(index)} ({target})"

    def mask(self, index: int) -> Int64[np.ndarray, "H W"]:
        layers = self._layers_of(index)
        classes = np.zeros(_NO_OBJECT + 1, np.int64)
        classes[: _OBJECTS[1]] = self._shapes[index] + 1
        return classes[layers]

    def depth(self, index: int) -> Float32[np.ndarray, "H W"]:
        layers = self._layers_of(index)
        behind = self._background(np.array([index]))[0, :, None]
        # the last object stands for none, which is not taken
        seen = np.where(layers == _NO_OBJECT, behind, self._distance[index][np.minimum(layers, _OBJECTS[1] - 1)])
        return seen * self._scale(index)

    def _scale(self, index: int) -> np.float32:
        """Of all lengths in an image: 1 for the largest shape."""
        place = _LARGEST_FIRST.index(self.classes[self._shapes[index, 0] + 1])
        return np.float32(self._true_sizes ** (-place / (len(SHAPES) - 1)))

    def _layers_of(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Which object is seen at each pixel, counted from the farthest."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        self.share()
        assert self._layers is not None
        return self._layers[index]

    def _read(self) -> UInt8[np.ndarray, "N size size 3"]:
        images = np.empty((len(self), self._size, self._size, 3), np.uint8)
        layers = np.full(images.shape[:3], _NO_OBJECT, np.uint8)
        tables = shape_tables()
        for start in range(0, len(self), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(self)))
            images[rows] = self._draw(rows, layers[start : start + len(rows)], tables)
        self._layers = layers
        return images

    def _random(self, stream: int, rows: np.ndarray, count: int) -> Float32[np.ndarray, "n count"]:
        return uniform(_KEYS + (self._seed * 2 + (self._split == "test")) * 64 + stream, rows, count)

    def _draw_shapes(self, rows: np.ndarray) -> Int64[np.ndarray, "N objects"]:
        """The shape of every object, one of some that each image has by chance."""
        palette = np.argsort(self._random(9, rows, len(SHAPES)), axis=1, kind="stable")[:, : self._kinds]
        chosen = (self._kinds * self._random(2, rows, _OBJECTS[1])).astype(np.int64)
        return np.take_along_axis(palette, chosen, axis=1).astype(np.int64)

    def _distances(self, rows: np.ndarray, counts: np.ndarray) -> Float32[np.ndarray, "N objects"]:
        """Metres to each image's objects, the farthest first; infinite where there is none."""
        nearness = between(self._random(1, rows, _OBJECTS[1]), 1 / _DISTANCE[1], 1 / _DISTANCE[0])
        nearness[np.arange(_OBJECTS[1]) >= counts[:, None]] = np.inf
        nearness.sort(axis=1)
        return np.where(nearness == np.inf, np.inf, 1 / nearness).astype(np.float32)

    def _background(self, rows: np.ndarray) -> Float32[np.ndarray, "n size"]:
        """Metres to the floor or the wall, by row of pixels."""
        below = np.arange(self._size, dtype=np.float32) + 0.5 - self._horizon[rows, None]
        floor = np.float32(_EYE * self._size) / np.maximum(below, np.float32(1e-3))
        return np.minimum(floor, self._wall[rows, None])

    def _draw(self, rows: np.ndarray, layers: np.ndarray, tables: np.ndarray) -> UInt8[np.ndarray, "n size size 3"]:
        """Pictures of these numbers; `layers` [n, size, size] is filled in."""
        behind = self._background(rows)
        scenery = ground(self._random(3, rows, 4 * 4 * 3), self._random(4, rows, 9 * 9 * 3), self._size)
        scenery += self._stripes(rows, behind)[:, :, None, None]
        depth = np.repeat(behind[:, :, None], self._size, axis=2)
        pictures = _Pictures(scenery.copy(), scenery, layers, depth)
        places = self._random(5, rows, 2 * _OBJECTS[1]).reshape(len(rows), 2, _OBJECTS[1])
        for layer in range(_OBJECTS[1]):
            drawn = np.flatnonzero(np.isfinite(self._distance[rows, layer]))
            if len(drawn):
                self._add_objects(pictures, drawn, rows[drawn], layer, places[drawn, :, layer], tables)
        return self._in_haze(rows, pictures.canvas * light(self._random(6, rows, 3), self._size), depth)

    def _stripes(self, rows: np.ndarray, behind: np.ndarray) -> Float32[np.ndarray, "n size"]:
        """Light and dark stripes on the floor, across the view, without those that are finer than pixels."""
        step = behind**2 / np.float32(_EYE * self._size)  # metres from one row of pixels to the next
        on_floor = behind < self._wall[rows, None]
        clear = np.clip(1 - 2 * step, 0, 1) * on_floor
        return np.float32(_STRIPE) * clear * np.sin(np.float32(np.pi) * (behind + 2 * self._random(7, rows, 1)))

    def _add_objects(
        self,
        pictures: _Pictures,
        drawn: np.ndarray,
        rows: np.ndarray,
        layer: int,
        places: np.ndarray,
        tables: np.ndarray,
    ) -> None:
        """Puts one object onto each of the pictures `drawn` [n], which have the numbers `rows`, at places [n, 2]."""
        u = self._random(_LAYER + layer, rows, NUMBERS)
        scale = self._size / self._distance[rows, layer]
        radius = scale * np.float32(_RADIUS) * between(u[:, 0], 1 - _SPREAD, 1 + _SPREAD)
        y = self._horizon[rows] + scale * (_EYE - between(places[:, 1], *_HEIGHT))
        middles = np.stack([places[:, 0] * self._size, y], axis=1).clip(0, self._size - 0.01)
        shapes = self._shapes[rows, layer]
        points = covered(drawn, self._size, middles, radius, int(_REACH * radius.max()) + 2, shapes, tables, u)
        # lighter than the ground, not than what is drawn on it, else all would end in white
        paint(pictures.canvas, points, at(pictures.scenery, drawn, middles), u)
        within = points.cover > 0.5
        pictures.layers.reshape(-1)[points.pixel[within]] = layer
        pictures.depth.reshape(-1)[points.pixel[within]] = self._distance[rows, layer][points.owner[within]]

    def _in_haze(self, rows: np.ndarray, canvas: np.ndarray, depth: np.ndarray) -> UInt8[np.ndarray, "n size size 3"]:
        """The picture through air that is lit itself (Koschmieder's law): the farther, the more of the air's colour."""
        u = self._random(8, rows, 4)
        air = between(u[:, :1], 0.6, 0.8) + between(u[:, 1:], -0.08, 0.08)
        seen = np.exp(-self._haze[rows, None, None] * depth)[..., None]
        return (np.clip(canvas * seen + air[:, None, None] * (1 - seen), 0, 1) * 255 + 0.5).astype(np.uint8)
