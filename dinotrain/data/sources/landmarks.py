"""Oxford and Paris buildings with their revisited ground truth (Radenović et al., CVPR 2018)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode, read_file
from dinotrain.data.paths import printable
from dinotrain.data.source import Source
from dinotrain.data.sources.plain_pickle import load_plain
from dinotrain.errors import UserError


@dataclass(frozen=True)
class Relevance:
    """Which database images show the landmark of one query, by number; those in no list do not."""

    easy: Int64[np.ndarray, "e"]
    hard: Int64[np.ndarray, "h"]
    junk: Int64[np.ndarray, "j"]
    """Shown so little of that finding it is neither right nor wrong."""


class LandmarksSource(Source):
    """The database images of roxford5k or rparis6k; `test()` gives the queries.

    Args:
        root: the folder with `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`, and the images in `jpg`. The pickle is read
            without running code from it.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: the files are not there, or are not what they should be.
    """

    ground_truth: tuple[Relevance, ...]
    """For every query."""

    def __init__(self, *, root: str | PathLike[str], min_size: int = 1) -> None:
        if min_size < 1:
            raise ValueError(f"min_size: got {min_size}, must be at least 1")
        self.min_size = min_size
        self._root = Path(os.path.abspath(os.path.expanduser(os.fspath(root))))
        file = _ground_truth_file(self._root)
        if not (self._root / "jpg").is_dir():
            raise UserError(f"data.root: {_shown(self._root)} has no folder jpg, expected the images in it")
        try:
            self._names, self._queries, self._boxes, self.ground_truth = _parsed(load_plain(read_file(str(file))))
        except (ValueError, BrokenImage) as error:
            raise UserError(f"data.root: can't read {_shown(file)}: {error}") from None

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when it can't be read."""
        return read_file(_path(self._root, self._names[index]))

    def name(self, index: int) -> str:
        return printable(os.fsencode(f"jpg/{self._names[index]}.jpg"))

    def test(self) -> LandmarkQueries:
        return LandmarkQueries(self._root, self._queries, self._boxes, self.min_size)

    def fingerprint(self) -> str:
        return f"landmarks:{len(self)}:{_digest(self._names)}"


class LandmarkQueries(Source):
    """The query images, each cut to the box around its landmark; made by `LandmarksSource.test`."""

    def __init__(self, root: Path, names: Sequence[str], boxes: Float64[np.ndarray, "Q 4"], min_size: int) -> None:
        self._root, self._names, self._boxes, self.min_size = root, tuple(names), boxes, min_size

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The part of the image within the box; raises `BrokenImage` when the file can't be read, or has none."""
        image = decode(read_file(_path(self._root, self._names[index])), min_size=self.min_size)
        left, top, right, bottom = np.maximum(np.round(self._boxes[index]), 0).astype(int).tolist()
        part = image[top:bottom, left:right]
        if min(part.shape[:2]) < self.min_size:
            raise BrokenImage(
                f"its box {left},{top},{right},{bottom} is outside of {image.shape[1]} x {image.shape[0]}"
            )
        return np.ascontiguousarray(part)

    def name(self, index: int) -> str:
        return printable(os.fsencode(f"query {index}: jpg/{self._names[index]}.jpg"))

    def fingerprint(self) -> str:
        return f"landmark queries:{len(self)}:{_digest([*self._names, *map(str, self._boxes.tolist())])}"


def _path(root: Path, name: str) -> str:
    return str(root / "jpg" / f"{name}.jpg")


def _shown(path: Path) -> str:
    return printable(os.fsencode(path))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _ground_truth_file(root: Path) -> Path:
    found = sorted(root.glob("gnd_*.pkl"))
    if len(found) != 1:
        what = f"{len(found)} files gnd_*.pkl" if found else "no file gnd_*.pkl"
        raise UserError(
            f"data.root: {_shown(root)} has {what}, expected the folder of one benchmark, with "
            "gnd_roxford5k.pkl or gnd_rparis6k.pkl and the folder jpg"
        )
    return found[0]


def _parsed(
    content: Any,
) -> tuple[tuple[str, ...], tuple[str, ...], Float64[np.ndarray, "Q 4"], tuple[Relevance, ...]]:
    """Names of the database images, names of the query images, boxes, and the ground truth; checked."""
    if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= set(content):
        raise ValueError("expected a dictionary with imlist, qimlist and gnd")
    names, queries = _names("imlist", content["imlist"]), _names("qimlist", content["qimlist"])
    truth = content["gnd"]
    if not isinstance(truth, (list, tuple)) or len(truth) != len(queries):
        raise ValueError(f"gnd: expected a list with an entry for each of the {len(queries)} queries")
    boxes, relevance = [], []
    for number, entry in enumerate(truth):
        if not isinstance(entry, dict) or not {"bbx", "easy", "hard", "junk"} <= set(entry):
            raise ValueError(f"gnd[{number}]: expected a dictionary with bbx, easy, hard and junk")
        boxes.append(_box(number, entry["bbx"]))
        lists = [_numbers(f"gnd[{number}].{key}", entry[key], len(names)) for key in ("easy", "hard", "junk")]
        relevance.append(Relevance(*lists))
    return names, queries, np.array(boxes, np.float64).reshape(-1, 4), tuple(relevance)


def _names(key: str, values: Any) -> tuple[str, ...]:
    names = tuple(values) if isinstance(values, (list, tuple, np.ndarray)) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}: expected a list of names of images")
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ValueError(f"{key}: {name!r} is no name of an image in the folder jpg")
    return tuple(str(name) for name in names)


def _box(number: int, value: Any) -> Float64[np.ndarray, "4"]:
    try:
        box = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        box = np.zeros(0)
    if box.shape != (4,) or not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"gnd[{number}].bbx: expected left, top, right, bottom in pixels")
    return box


def _numbers(key: str, value: Any, count: int) -> Int64[np.ndarray, "n"]:
    try:
        found = np.asarray(value if np.size(value) else [], np.float64).reshape(-1)
    except (TypeError, ValueError):
        found = np.array([-1.0])
    if (found != np.floor(found)).any() or (found < 0).any() or (found >= count).any():
        raise ValueError(f"{key}: expected numbers of images in 0..{count - 1}")
    return found.astype(np.int64)
