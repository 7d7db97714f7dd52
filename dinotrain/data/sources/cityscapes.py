"""Cityscapes, finely annotated."""

from __future__ import annotations

import os
import re
from os import PathLike

from dinotrain.data.dense import IGNORE
from dinotrain.data.paths import printable
from dinotrain.data.sources.pair_source import MaskPairs
from dinotrain.data.sources.pairs import Split, existing_folder, pair_folders
from dinotrain.errors import UserError

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Numbers of the classes in the files. The others (void, and what is too rare for the benchmark) are not counted."""

_NUMBERS = 34  # numbers in the files: 0..33; what has the number -1 is 255 as a byte
_VOID = 255
_IMAGES, _MASKS = b"leftImg8bit", b"gtFine"
_KINDS = {b"labelTrainIds": False, b"labelIds": True}  # ending of the masks' names -> whether they hold all numbers
_FOLDERS = {"train": b"train", "test": b"val"}


class CityscapesSource(MaskPairs):
    """leftImg8bit/{train,val}/CITY/*_leftImg8bit.png, and of gtFine *_labelTrainIds.png or else *_labelIds.png.

    The 19 classes of the benchmark (Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding,
    CVPR 2016; cityscapesScripts, helpers/labels.py). What is none of these has no class.

    Args:
        root: folder that holds leftImg8bit and gtFine.
        split: "train" or "test", the latter the images of val: the masks of those of its test split are not public.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a folder or a mask is missing.
    """

    def __init__(self, *, root: str | PathLike[str], split: str = "train", min_size: int = 1) -> None:
        if split not in _FOLDERS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        top = existing_folder(root, "leftImg8bit and gtFine")
        folders = Split(*(os.path.join(top, kind, _FOLDERS[split]) for kind in (_IMAGES, _MASKS)))
        for folder in folders:
            if not os.path.isdir(folder):
                raise UserError(f"data.root: no Cityscapes in {printable(top)}: there is no {printable(folder)}")
        kind = _kind(folders.targets)
        super().__init__(
            root=top,
            pairs=pair_folders(
                top,
                folders,
                f"mask *_gtFine_{kind.decode()}.png",
                endings=(b".png",),
                of_image=lambda path: _frame(path, b"leftImg8bit"),
                of_target=lambda path: _frame(path, b"gtFine_" + kind),
            ),
            classes=CLASSES,
            numbers=_all_numbers() if _KINDS[kind] else _class_numbers(),
            kind="cityscapes",
            min_size=min_size,
        )
        self._split = split

    def test(self) -> CityscapesSource | None:
        """The images of val, for those of training."""
        if self._split == "test" or not os.path.isdir(os.path.join(self._root, _IMAGES, _FOLDERS["test"])):
            return None
        return CityscapesSource(root=os.fsdecode(self._root), split="test", min_size=self.min_size)


def _kind(folder: bytes) -> bytes:
    """Which of the masks to read, by what is in the first folder that has any."""
    for _, _, names in os.walk(folder):
        for kind in _KINDS:
            if any(name.endswith(b"_gtFine_" + kind + b".png") for name in names):
                return kind
    raise UserError(f"data.root: no *_gtFine_labelIds.png in {printable(folder)}, expected the masks of Cityscapes")


def _frame(path: bytes, ending: bytes) -> bytes | None:
    """City, sequence and frame of a file of this kind."""
    match = re.fullmatch(rb"(.+)_" + ending + rb"\.png", path)
    return match[1] if match else None


def _all_numbers() -> dict[int, int]:
    ranks = {number: rank for rank, number in enumerate(_TRAINED)}
    return {number: ranks.get(number, IGNORE) for number in (*range(_NUMBERS), _VOID)}


def _class_numbers() -> dict[int, int]:
    return {number: number for number in range(len(CLASSES))} | {_VOID: IGNORE}
