"""Image files, each with a file that says something of every pixel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from dinotrain.data.arguments import whole
from dinotrain.data.dense import IGNORE, DenseSource, Target
from dinotrain.data.images import read_file
from dinotrain.data.paths import printable
from dinotrain.data.sources.depth_files import read_depth, to_metres
from dinotrain.data.sources.pairs import Pairs
from dinotrain.data.sources.pixel_values import read_named, read_values
from dinotrain.errors import UserError

_NO_CLASS = -2  # in a table of numbers: what must not occur


class PairSource(DenseSource):
    """Base of the sources of such files.

    Args:
        root: folder that the paths are relative to.
        pairs: the images and their targets.
        kind: what else decides what is read, for the fingerprint.
        min_size: images with a shorter side than this many pixels count as broken.
    """

    def __init__(self, *, root: bytes, pairs: Pairs, kind: str, min_size: int) -> None:
        self.min_size = whole("min_size", min_size, 1)
        self._root, self._pairs = root, pairs
        parts = (kind, pairs.images.digest(), pairs.targets.digest())
        self._digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._pairs.images)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when it can't be read."""
        return read_file(os.path.join(self._root, self._pairs.images[index]))

    def name(self, index: int) -> str:
        """Path below the root."""
        return printable(self._pairs.images[index])

    def target_name(self, index: int, target: Target) -> str:
        """Path below the root of the mask or the depth file."""
        return printable(self._pairs.targets[index])

    def fingerprint(self) -> str:
        return f"{self.targets[0]}:{len(self)}:{self._digest}"

    def _target_path(self, index: int) -> bytes:
        return os.path.join(self._root, self._pairs.targets[index])


class MaskPairs(PairSource):
    """Base of the sources of images with masks: PNG files, in grey or with a palette, whose numbers are classes.

    Args:
        root: folder that the paths are relative to.
        pairs: the images and their masks.
        classes: names of the classes.
        numbers: number in the masks -> class, or `IGNORE`. Others are refused.
        kind: name of the kind of source, for the fingerprint.
        min_size: images with a shorter side than this many pixels count as broken.
    """

    targets = ("masks",)
    classes: tuple[str, ...]

    def __init__(
        self,
        *,
        root: bytes,
        pairs: Pairs,
        classes: Sequence[str],
        numbers: Mapping[int, int],
        kind: str,
        min_size: int,
    ) -> None:
        super().__init__(root=root, pairs=pairs, kind=f"{kind} {sorted(numbers.items())}", min_size=min_size)
        self.classes = tuple(classes)
        self._table = np.full(max(numbers) + 1, _NO_CLASS, np.int64)
        self._table[list(numbers)] = list(numbers.values())

    def mask(self, index: int) -> Int64[np.ndarray, "H W"]:
        name = self.target_name(index, "masks")
        values = read_mask(self._target_path(index), name)
        within = (values >= 0) & (values < len(self._table))
        mask = self._table[np.where(within, values, 0)]
        wrong = values[~within | (mask == _NO_CLASS)]
        if len(wrong):
            raise UserError(
                f"data.classes: {name} holds the number {wrong[0]}, expected {self._expected()} "
                f"({len(self.classes)} classes)"
            )
        return mask

    def _expected(self) -> str:
        """The numbers that masks may hold, in words."""
        counted, ignored = np.flatnonzero(self._table >= 0), np.flatnonzero(self._table == IGNORE)
        words = _runs(counted)
        return f"{words}, or {_runs(ignored)} for none" if len(ignored) else words


class DepthPairs(PairSource):
    """Base of the sources of images with depth, in files as `depth_files.read_depth` reads them.

    Args:
        root: folder that the paths are relative to.
        pairs: the images and their depth files.
        step: metres of one step of the stored numbers.
        max_depth: metres up to which depth counts.
        kind: name of the kind of source, for the fingerprint.
        min_size: images with a shorter side than this many pixels count as broken.
    """

    targets = ("depth",)
    max_depth: float

    def __init__(self, *, root: bytes, pairs: Pairs, step: float, max_depth: float, kind: str, min_size: int) -> None:
        super().__init__(root=root, pairs=pairs, kind=f"{kind} {step} {max_depth}", min_size=min_size)
        self._step, self.max_depth = step, max_depth

    def depth(self, index: int) -> Float32[np.ndarray, "H W"]:
        values = read_depth(self._target_path(index), self.target_name(index, "depth"))
        return to_metres(self._steps(values, index), self._step, self.max_depth)

    def _steps(self, values: np.ndarray, index: int) -> np.ndarray:
        """Numbers of a file [H, W] -> multiples of `step`."""
        return values


def read_mask(path: bytes, name: str) -> np.ndarray:
    """The whole numbers [H, W] in a mask file.

    Args:
        path: the file.
        name: its printable name.

    Raises:
        BrokenImage: it can't be read.
        UserError: it holds something else.
    """
    values = read_values(read_named(path, name), name)
    if values.dtype.kind not in "ui":
        raise UserError(f"data.root: {name} holds fractions ({values.dtype}), expected class numbers")
    return values


def _runs(numbers: np.ndarray) -> str:
    """0..4, 7, 9..11"""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}..{part[-1]}" for part in parts)
