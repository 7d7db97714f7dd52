"""NYU Depth v2, as it is prepared for learning depth."""

from __future__ import annotations

import os
import re
from os import PathLike

import numpy as np
from jaxtyping import Float32

from dinotrain.data.arguments import number
from dinotrain.data.batch import Skipped
from dinotrain.data.paths import printable
from dinotrain.data.sources.pair_source import DepthPairs
from dinotrain.data.sources.pairs import Pairs, Split, existing_folder, pair_folders, pair_list
from dinotrain.errors import UserError

EIGEN_CROP = (45, 471, 41, 601)
"""Top, bottom, left, right of the part that Eigen et al. (NeurIPS 2014) measure depth in, for 480 x 640 pixels."""

_SHAPE = (480, 640)
_LISTS = {
    "train": (b"nyudepthv2_train_files_with_gt.txt", b"nyu_train.txt", b"train.txt"),
    "test": (b"nyudepthv2_test_files_with_gt.txt", b"nyu_test.txt", b"test.txt", b"val.txt"),
}
_FOLDERS = {
    "train": (b"official_splits/train", b"sync", b"train"),
    "test": (b"official_splits/test", b"test", b"val"),
}
_NO_DEPTH = b"None"  # stands in lists for a depth file that there is not


class NyuSource(DepthPairs):
    """RGB-D frames of rooms: rgb_*.jpg with sync_depth_*.png in millimetres, 640x480 px, measured in Eigen's crop.

    Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012. Which files are a split's
    says a list with lines "image depth focal-length" (nyudepthv2_train_files_with_gt.txt and ..._test_..., or
    nyu_train.txt and nyu_test.txt, in the root); or, without one, they are all in official_splits/train or sync or
    train, and official_splits/test or test or val.

    Args:
        root: folder with all of this.
        train_list: the list of the training files, by default one of those above.
        test_list: the list of the test files, by default one of those above.
        max_depth: metres up to which depth counts.
        split: "train" or "test".
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a list or a file is missing.
    """

    evaluation_crop = EIGEN_CROP

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        train_list: str | PathLike[str] | None = None,
        test_list: str | PathLike[str] | None = None,
        max_depth: float = 10.0,
        split: str = "train",
        min_size: int = 1,
    ) -> None:
        if split not in _LISTS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        top = existing_folder(root, "official_splits or lists of the files")
        self._settings = {"train_list": train_list, "test_list": test_list, "max_depth": max_depth}
        self.left_out: tuple[Skipped, ...] = ()
        pairs = self._pairs(top, split)
        if pairs is None:
            raise UserError(
                f"data.root: no NYU Depth v2 in {printable(top)}, expected {printable(_LISTS[split][0])} or the folder "
                f"{printable(_FOLDERS[split][0])} with rgb_*.jpg and sync_depth_*.png (data.{split}_list names a list)"
            )
        depth = number("max_depth", max_depth, 0.1)
        super().__init__(root=top, pairs=pairs, step=0.001, max_depth=depth, kind="nyu", min_size=min_size)
        self._split = split

    def test(self) -> NyuSource | None:
        """The test files, for those of training; None where there are none."""
        if self._split == "test" or not self._has("test"):
            return None
        return NyuSource(root=os.fsdecode(self._root), split="test", min_size=self.min_size, **self._settings)

    def depth(self, index: int) -> Float32[np.ndarray, "H W"]:
        depth = super().depth(index)
        if depth.shape != _SHAPE:
            raise UserError(
                f"data.root: {self.target_name(index, 'depth')} is {depth.shape[1]}x{depth.shape[0]} px, expected "
                "640x480, for which the crop of the benchmark is made (data=depth reads other sizes)"
            )
        return depth

    def _has(self, split: str) -> bool:
        return _list_file(self._root, self._settings[f"{split}_list"], split) is not None or (
            _folder(self._root, split) is not None
        )

    def _pairs(self, top: bytes, split: str) -> Pairs | None:
        """Of the list, else of the folder."""
        if file := _list_file(top, self._settings[f"{split}_list"], split):
            pairs, self.left_out = _listed(top, file, split)
            return pairs
        if folder := _folder(top, split):
            return pair_folders(
                top,
                Split(folder, folder),
                "depth file sync_depth_*.png",
                endings=(b".png",),
                of_image=lambda path: _frame(path, rb"rgb_(\d+)\.(?:jpg|png)"),
                of_target=lambda path: _frame(path, rb"sync_depth_(\d+)\.png"),
            )
        return None


def _list_file(top: bytes, given: object, split: str) -> bytes | None:
    if given is None:
        return next(filter(os.path.isfile, (os.path.join(top, name) for name in _LISTS[split])), None)
    assert isinstance(given, (str, PathLike))
    path = os.path.abspath(os.path.expanduser(os.fsencode(given)))
    if not os.path.isfile(path):
        raise UserError(f"data.{split}_list: {printable(path)} is no file, expected lines of image and depth file")
    return path


def _folder(top: bytes, split: str) -> bytes | None:
    return next(filter(os.path.isdir, (os.path.join(top, name) for name in _FOLDERS[split])), None)


def _frame(path: bytes, pattern: bytes) -> bytes | None:
    """Folder and number of a file of this kind."""
    folder, name = os.path.split(path)
    match = re.fullmatch(pattern, name)
    return os.path.join(folder, match[1]) if match else None


def _listed(top: bytes, file: bytes, split: str) -> tuple[Pairs, tuple[Skipped, ...]]:
    """The pairs of a list, and the images that it names without depth."""
    with open(file, "rb") as lines:
        rows = [[part.lstrip(b"/") for part in line.split()] for line in lines if line.strip()]
    if short := [row for row in rows if len(row) < 2]:
        raise UserError(
            f"data.{split}_list: {printable(file)} has the line {printable(b' '.join(short[0]))!r}, expected image, "
            "depth file and focal length"
        )
    with_depth = [(row[0], row[1]) for row in rows if row[1] != _NO_DEPTH]
    base = _base(top, file, with_depth, split)
    pairs = [(os.path.join(base, image), os.path.join(base, depth)) for image, depth in with_depth]
    left_out = tuple(Skipped(printable(row[0]), "has no depth") for row in rows if row[1] == _NO_DEPTH)
    return pair_list(top, pairs, printable(file)), left_out


def _base(top: bytes, file: bytes, pairs: list[tuple[bytes, bytes]], split: str) -> bytes:
    """What the paths of a list are relative to, by where its first image is; relative to the root itself."""
    folders = (b"", *_FOLDERS[split], os.path.relpath(os.path.dirname(file), top))
    held = (folder for folder in folders if pairs and os.path.isfile(os.path.join(top, folder, pairs[0][0])))
    return next(held, b"")
