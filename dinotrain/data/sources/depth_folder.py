"""A folder of images and one of depth."""

from __future__ import annotations

import os
from os import PathLike

import numpy as np
from jaxtyping import Float32

from dinotrain.data.arguments import number
from dinotrain.data.broken import BrokenImage
from dinotrain.data.paths import printable
from dinotrain.data.sources.depth_files import ENDINGS, Unit, metres_per_step, read_depth
from dinotrain.data.sources.pair_source import DepthPairs
from dinotrain.data.sources.pairs import Pairs, existing_folder, find_splits, pair_folders
from dinotrain.data.sources.read_once import read_once
from dinotrain.errors import UserError

_TRIED = 8  # files that are looked at to see whether the unit can be right
_NEAREST, _FARTHEST = 0.02, 1000.0  # metres: where all is nearer, or something farther, the unit is another one


class DepthFolderSource(DepthPairs):
    """Images in one folder, depth under the same names (but for the ending) in another.

    ROOT/images and ROOT/depth; or, with splits, ROOT/train/images, ROOT/val/images ... or ROOT/images/train,
    ROOT/images/val ..., and depth alike. Depth files are grey PNG of 16 bits, floating-point TIFF, or .npy or .npz
    arrays [H, W]; 0, infinite and nan are unknown.

    Args:
        root: the folder.
        unit: what the numbers in the files are: "mm", "cm", "m", or the metres of one step. Files of 8 bits need the
            last.
        max_depth: metres up to which depth counts, what is beyond is unknown; None takes the greatest there is in the
            files, which are all read once for it.
        images: name of the folder of images.
        depth: name of the folder of depth.
        split: "train" or "test".
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a folder or a depth file is missing, or the unit can't be right.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        unit: Unit | float,
        max_depth: float | None = None,
        images: str = "images",
        depth: str = "depth",
        split: str = "train",
        min_size: int = 1,
    ) -> None:
        step = metres_per_step(unit)
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        if max_depth is not None and number("max_depth", max_depth, 0) == 0:
            raise ValueError("max_depth: got 0, must be above 0 metres")
        top = existing_folder(root, f"{images} and {depth}")
        splits = find_splits(top, images, depth, "depth")
        if split not in splits:
            raise UserError(f"data.root: {printable(top)} has no {split} split")
        pairs = pair_folders(top, splits[split], "depth file", endings=ENDINGS)
        greatest = float(max_depth) if max_depth is not None else _greatest(top, pairs, step, unit)
        super().__init__(root=top, pairs=pairs, step=step, max_depth=greatest, kind="depth", min_size=min_size)
        self._bytes_allowed, self._split, self._has_test = not isinstance(unit, str), split, "test" in splits
        self._settings = {
            "root": os.fsdecode(top),
            "unit": unit,
            "max_depth": greatest,
            "images": images,
            "depth": depth,
            "min_size": min_size,
        }
        self._check_unit(unit)

    def test(self) -> DepthFolderSource | None:
        """The other split of folders with splits."""
        if self._split == "test" or not self._has_test:
            return None
        return DepthFolderSource(**self._settings, split="test")

    def _steps(self, values: np.ndarray, index: int) -> np.ndarray:
        if values.dtype == np.uint8 and not self._bytes_allowed:
            raise UserError(
                f"data.root: {self.target_name(index, 'depth')} has 8 bits, which is no measured depth; expected a PNG "
                "of 16 bits or floating point (data.unit=NUMBER, the metres of one step, takes it nonetheless)"
            )
        return values

    def _check_unit(self, unit: Unit | float) -> None:
        """Refuses a unit with which all of some files is unknown, or within a hand's breadth."""
        depths, raw = [], []
        for index in np.linspace(0, len(self) - 1, min(_TRIED, len(self))).astype(int).tolist():
            try:
                stored = read_depth(self._target_path(index), self.target_name(index, "depth"))
                depths.append(self.depth(index))
            except BrokenImage:  # told when its turn comes
                continue
            raw.append(stored[np.isfinite(stored) & (stored > 0)].astype(np.float64))
        stored = np.concatenate([np.zeros(0), *raw])
        if not len(stored):
            return
        known = max(float(depth.max()) for depth in depths)
        if known <= _NEAREST:
            middle = float(np.median(stored)) * self._step
            raise UserError(
                f"data.unit: with {unit} the depth of {self.target_name(0, 'depth')} and others is about {middle:g} m, "
                f"expected {_NEAREST:g} to {self.max_depth:g} m (data.max_depth); is the unit another one?"
            )


def _greatest(top: bytes, pairs: Pairs, step: float, unit: Unit | float) -> float:
    """The greatest depth in all files, in metres."""
    found = read_once("depth", [os.path.join(top, name) for name in pairs.targets], _largest)
    largest = max(float(part[0]) for part in found)
    if largest <= 0:
        raise UserError(f"data.root: no file in {printable(os.path.dirname(pairs.targets[0]))} holds any depth above 0")
    if largest * step > _FARTHEST:
        raise UserError(
            f"data.unit: with {unit} the greatest depth is {largest * step:g} m, expected up to {_FARTHEST:g} m; is it "
            "another one? data.max_depth=METRES takes what is not beyond that"
        )
    return largest * step


def _largest(path: bytes) -> Float32[np.ndarray, "1"]:
    """The largest finite number of a depth file; 0 of one that can't be read."""
    try:
        values = read_depth(path, printable(path))
    except BrokenImage:
        return np.zeros(1, np.float32)
    finite = values[np.isfinite(values)]
    return np.array([finite.max() if len(finite) else 0], np.float32)
