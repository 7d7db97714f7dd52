"""SUN RGB-D."""

from __future__ import annotations

import os
from collections.abc import Iterable
from os import PathLike

import numpy as np

from dinotrain.data.arguments import number
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.sources.pair_source import DepthPairs
from dinotrain.data.sources.pairs import Pairs, existing_folder
from dinotrain.data.sources.tree import find_images
from dinotrain.errors import UserError

_NAME = b"SUNRGBD"
_IMAGE, _DEPTH = b"image", b"depth_bfx"
_SPLITS = (b"allsplit.mat", b"traintestSUNRGBD/allsplit.mat", b"SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat")
_VARIABLES = {"train": "alltrain", "test": "alltest"}


class SunRgbdSource(DepthPairs):
    """SUNRGBD/SENSOR/.../SCENE with image/*.jpg and depth_bfx/*.png: millimetres, each 16 bits turned left by three.

    Song et al., SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite, CVPR 2015; its toolbox, read3dPoints.m. With
    `allsplit.mat` of that toolbox this source is the training split and `test()` the other, 5285 and 5050 images;
    without it, all scenes are one split.

    Args:
        root: the folder SUNRGBD, or the one above it.
        splits: the file allsplit.mat, by default looked for in the root and in SUNRGBDtoolbox/traintestSUNRGBD.
        max_depth: metres up to which depth counts: 10 where models trained on NYU are tested, 8 in the toolbox.
        split: "train" or "test".
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: no scene, or one of a split, is there.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        splits: str | PathLike[str] | None = None,
        max_depth: float = 10.0,
        split: str = "train",
        min_size: int = 1,
    ) -> None:
        if split not in _VARIABLES:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        given = existing_folder(root, "the folder SUNRGBD")
        top = os.path.dirname(given) if os.path.basename(given) == _NAME else given
        if not os.path.isdir(os.path.join(top, _NAME)):
            raise UserError(
                f"data.root: {printable(given)} is not SUNRGBD and has no such folder, expected one of them"
            )
        file = _splits_file(top, splits)
        if file is None and split == "test":
            raise UserError(f"data.splits: no allsplit.mat in {printable(top)}, expected it for the test split")
        scenes = _scenes(top)
        if file is not None:
            scenes = _chosen(scenes, _listed(file, _VARIABLES[split]), file)
        pairs = Pairs(*(PathTable(column) for column in zip(*scenes.values(), strict=True)))
        depth = number("max_depth", max_depth, 0.1)
        super().__init__(root=top, pairs=pairs, step=0.001, max_depth=depth, kind="sunrgbd", min_size=min_size)
        self._file, self._split = file, split

    def test(self) -> SunRgbdSource | None:
        """The test split, where allsplit.mat says which it is."""
        if self._split == "test" or self._file is None:
            return None
        return SunRgbdSource(
            root=os.path.join(os.fsdecode(self._root), os.fsdecode(_NAME)),
            splits=os.fsdecode(self._file),
            max_depth=self.max_depth,
            split="test",
            min_size=self.min_size,
        )

    def _steps(self, values: np.ndarray, index: int) -> np.ndarray:
        if values.dtype.kind not in "ui" or values.dtype.itemsize < 2 or values.max(initial=0) > 0xFFFF:
            raise UserError(f"data.root: {self.target_name(index, 'depth')} holds {values.dtype}, expected 16 bits")
        turned = values.astype(np.uint16)
        return (turned >> np.uint16(3)) | (turned << np.uint16(13))


def _scenes(top: bytes) -> dict[bytes, tuple[bytes, bytes]]:
    """Path of each scene that has both -> image and depth file, all relative to the root."""
    images, depths = dict[bytes, bytes](), dict[bytes, bytes]()
    for path in find_images(os.path.join(top, _NAME), (b".jpg", b".png")).paths:
        folder, name = os.path.split(path)
        scene, kind = os.path.split(folder)
        if kind in (_IMAGE, _DEPTH):
            found, ending = (images, b".jpg") if kind == _IMAGE else (depths, b".png")
            if name.lower().endswith(ending):
                found.setdefault(os.path.join(_NAME, scene), os.path.join(_NAME, path))
    if not images:
        raise UserError(f"data.root: no SCENE/image/*.jpg in {printable(os.path.join(top, _NAME))}, expected SUN RGB-D")
    if missing := [scene for scene in images if scene not in depths]:
        raise UserError(
            f"data.root: {len(missing)} of {len(images)} scenes in {printable(os.path.join(top, _NAME))} have no "
            f"depth_bfx/*.png; the first is {printable(missing[0])}"
        )
    return {scene: (image, depths[scene]) for scene, image in images.items()}


def _splits_file(top: bytes, given: str | PathLike[str] | None) -> bytes | None:
    if given is None:
        places = (os.path.join(folder, name) for folder in (top, os.path.join(top, _NAME)) for name in _SPLITS)
        return next(filter(os.path.isfile, places), None)
    path = os.path.abspath(os.path.expanduser(os.fsencode(given)))
    if not os.path.isfile(path):
        raise UserError(f"data.splits: {printable(path)} is no file, expected allsplit.mat of SUNRGBDtoolbox")
    return path


def _listed(file: bytes, variable: str) -> list[bytes]:
    """The scenes of a split, from SUNRGBD on: the file has the folders of the machine that it was made on."""
    from scipy.io import loadmat

    try:
        cells = loadmat(os.fsdecode(file), variable_names=[variable], squeeze_me=True)[variable]
    except Exception as error:  # damaged files make it raise nearly every type
        raise UserError(f"data.splits: {printable(file)} is no allsplit.mat of SUNRGBDtoolbox ({error})") from error
    parts = (str(cell).replace("//", "/").rstrip("/").partition("SUNRGBD/")[2] for cell in np.atleast_1d(cells))
    return [os.path.join(_NAME, os.fsencode(part)) for part in parts]


def _chosen(
    scenes: dict[bytes, tuple[bytes, bytes]], names: Iterable[bytes], file: bytes
) -> dict[bytes, tuple[bytes, bytes]]:
    names = list(names)
    missing = [name for name in names if name not in scenes]
    if missing or not names:
        first = f"; the first is {printable(missing[0])}" if missing else ""
        raise UserError(f"data.root: {len(missing)} of {len(names)} scenes in {printable(file)} are missing{first}")
    return {name: scenes[name] for name in names}
