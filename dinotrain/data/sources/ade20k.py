"""ADE20K scene parsing, the set of the 2016 challenge."""

from __future__ import annotations

import os
from os import PathLike

from dinotrain.data.dense import IGNORE
from dinotrain.data.paths import printable
from dinotrain.data.sources.pair_source import MaskPairs
from dinotrain.data.sources.pairs import Split, existing_folder, pair_folders
from dinotrain.errors import UserError

_CLASSES = 150
_NAME = b"ADEChallengeData2016"
_FOLDERS = {"train": b"training", "test": b"validation"}


class Ade20kSource(MaskPairs):
    """images/{training,validation} and annotations/{training,validation} of ADEChallengeData2016.

    Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. In its files 1..150 are the classes, here 0..149, and
    0 is all else, which is not counted. Their names are those of `objectInfo150.txt`, where that is in the root.

    Args:
        root: the folder ADEChallengeData2016, or the one above it.
        split: "train" or "test", the latter its validation images.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a folder or a mask is missing.
    """

    def __init__(self, *, root: str | PathLike[str], split: str = "train", min_size: int = 1) -> None:
        if split not in _FOLDERS:
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        given = existing_folder(root, "ADEChallengeData2016")
        top = next((place for place in (given, os.path.join(given, _NAME)) if _holds(place, b"training")), None)
        if top is None:
            raise UserError(
                f"data.root: no ADE20K in {printable(given)}, expected images/training and annotations/training in it "
                f"or in its folder {printable(_NAME)}"
            )
        folders = Split(*(os.path.join(top, kind, _FOLDERS[split]) for kind in (b"images", b"annotations")))
        super().__init__(
            root=top,
            pairs=pair_folders(top, folders, "mask", endings=(b".png",)),
            classes=_class_names(os.path.join(top, b"objectInfo150.txt")),
            numbers={0: IGNORE} | {number + 1: number for number in range(_CLASSES)},
            kind="ade20k",
            min_size=min_size,
        )
        self._split = split

    def test(self) -> Ade20kSource | None:
        """The validation images, for those of training."""
        if self._split == "test" or not _holds(self._root, b"validation"):
            return None
        return Ade20kSource(root=os.fsdecode(self._root), split="test", min_size=self.min_size)


def _holds(top: bytes, split: bytes) -> bool:
    return all(os.path.isdir(os.path.join(top, kind, split)) for kind in (b"images", b"annotations"))


def _class_names(file: bytes) -> tuple[str, ...]:
    """The first name of each class: in the last of columns parted by tabs, below a heading."""
    numbers = tuple(map(str, range(1, _CLASSES + 1)))
    if not os.path.isfile(file):
        return numbers
    with open(file, encoding="utf-8", errors="replace") as lines:
        columns = [line.rstrip("\n").split("\t") for line in lines]
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in columns}
    return tuple(names.get(number) or number for number in numbers)
