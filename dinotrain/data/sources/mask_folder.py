"""A folder of images and one of masks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from os import PathLike

import numpy as np
from jaxtyping import Int64

from dinotrain.data.arguments import whole
from dinotrain.data.broken import BrokenImage
from dinotrain.data.dense import IGNORE
from dinotrain.data.paths import printable
from dinotrain.data.sources.pair_source import MaskPairs, read_mask
from dinotrain.data.sources.pairs import Pairs, Split, existing_folder, find_splits, pair_folders
from dinotrain.data.sources.read_once import read_once
from dinotrain.errors import UserError

_ENDINGS = (b".png", b".tif", b".tiff", b".bmp", b".gif", b".webp", b".pgm", b".pbm", b".jpg", b".jpeg")
_SHOWN = 10  # numbers in a message
_MOST_CLASSES = 1000  # a larger number in a mask is no class but, say, that of an object


class MaskFolderSource(MaskPairs):
    """Images in one folder, masks under the same names (but for the ending) in another.

    ROOT/images and ROOT/masks; or, with splits, ROOT/train/images, ROOT/val/images ... or ROOT/images/train,
    ROOT/images/val ..., and masks alike. Masks are grey or palette PNG files, or others that keep numbers exactly.

    Args:
        root: the folder.
        images: name of the folder of images.
        masks: name of the folder of masks.
        classes: number of classes, or their names; None takes the lines of ROOT/classes.txt, or without such a file
            finds the largest number in the masks, which are all read once for it.
        ignore: numbers in the masks of pixels that have no class.
        values: numbers in the masks of classes 0, 1, 2 ..., where these are others, such as [0, 255].
        split: "train" or "test".
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a folder or a mask is missing, or there is nothing to tell apart in the masks.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        images: str = "images",
        masks: str = "masks",
        classes: int | Sequence[str] | None = None,
        ignore: Sequence[int] = (255,),
        values: Sequence[int] | None = None,
        split: str = "train",
        min_size: int = 1,
    ) -> None:
        ignored = _numbers("ignore", ignore)
        chosen = None if values is None else _numbers("values", values)
        if chosen is not None and (common := set(chosen) & set(ignored)):
            raise ValueError(f"values: got {sorted(common)[0]}, which is among those of ignore; expected others")
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        top = existing_folder(root, f"{images} and {masks}")
        splits = find_splits(top, images, masks, "masks")
        if split not in splits:
            raise UserError(f"data.root: {printable(top)} has no {split} split")
        pairs = {name: _pairs(top, folders) for name, folders in splits.items()}
        names = _names(_listed(top) if classes is None else classes, len(chosen) if chosen else None)
        if names is None:
            names = tuple(map(str, range(_count(top, list(pairs.values()), ignored))))
        numbers = {value: number for number, value in enumerate(chosen or range(len(names)))}
        super().__init__(
            root=top,
            pairs=pairs[split],
            classes=names,
            numbers=dict.fromkeys(ignored, IGNORE) | numbers if chosen else numbers | dict.fromkeys(ignored, IGNORE),
            kind="masks",
            min_size=min_size,
        )
        self._split, self._has_test = split, "test" in splits
        self._settings = {
            "root": os.fsdecode(top),
            "images": images,
            "masks": masks,
            "classes": names,
            "ignore": ignored,
            "values": chosen,
            "min_size": min_size,
        }

    def test(self) -> MaskFolderSource | None:
        """The other split of folders with splits."""
        if self._split == "test" or not self._has_test:
            return None
        return MaskFolderSource(**self._settings, split="test")


def _pairs(top: bytes, folders: Split) -> Pairs:
    return pair_folders(top, folders, "mask", endings=_ENDINGS)


def _numbers(name: str, values: object) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(set(values)) < len(values):
        raise ValueError(f"{name}: got {values!r}, must be a list of different whole numbers, such as [255]")
    return tuple(whole(name, value, 0, 65535) for value in values)


def _listed(top: bytes) -> list[str] | None:
    """The lines of the file with the names of the classes, where there is one."""
    file = os.path.join(top, b"classes.txt")
    if not os.path.isfile(file):
        return None
    with open(file, encoding="utf-8", errors="replace") as lines:
        return [line.strip() for line in lines if line.strip()]


def _names(classes: object, count: int | None) -> tuple[str, ...] | None:
    """Names of the classes, where they are known."""
    if classes is None:
        return None if count is None else tuple(map(str, range(count)))
    if isinstance(classes, (str, bool)) or not isinstance(classes, (int, Sequence)):
        raise ValueError(f"classes: got {classes!r}, must be their number or a list of their names")
    names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise ValueError(f"classes: got {classes!r}, must be 2 to {_MOST_CLASSES}")
    if count not in (None, len(names)):
        raise ValueError(f"classes: got {len(names)}, must be as many as values, {count}")
    return names


def _count(top: bytes, pairs: Sequence[Pairs], ignored: Sequence[int]) -> int:
    """Number of classes by the largest number in the masks."""
    names = [name for part in pairs for name in part.targets]
    found = read_once("masks", [os.path.join(top, name) for name in names], _found)
    largest = [max((number for number in part.tolist() if number not in ignored), default=-1) for part in found]
    most = max(largest)
    if most >= _MOST_CLASSES:
        where = printable(names[largest.index(most)])
        raise UserError(
            f"data.classes: {where} holds the number {most}, too large for a class; data.values=[...] lists the "
            "numbers that are classes, data.ignore=[...] those that are none"
        )
    if most < 1:
        numbers = sorted({number for part in found for number in part.tolist()})
        raise UserError(
            f"data.classes: the masks hold only {numbers}, of which {list(ignored)} have no class (data.ignore): "
            "nothing to tell apart; data.values=[0,255] data.ignore=[] takes such numbers as classes 0 and 1"
        )
    _warn_of_gaps(sorted({int(number) for part in found for number in part} - set(ignored)), names[largest.index(most)])
    return most + 1


def _warn_of_gaps(present: Sequence[int], where: bytes) -> None:
    """A single stray number makes classes of all the numbers below it."""
    count, absent = present[-1] + 1, sorted(set(range(present[-1])) - set(present))
    if not absent:
        return
    few, verb = (present, "only {} occur") if len(present) <= len(absent) else (absent, "{} never occur")
    listed = ", ".join(map(str, few[:_SHOWN])) + (f" ... {few[-1]}" if len(few) > _SHOWN else "")
    warnings.warn(
        f"data.classes: {count} by the largest number, in {printable(where)}; {verb.format(listed)}; set data.classes, "
        "or data.ignore or data.values, if these are not the classes",
        stacklevel=2,
    )


def _found(path: bytes) -> Int64[np.ndarray, "numbers"]:
    """All numbers in a mask; none of one that can't be read, which is told when its turn comes."""
    try:
        return np.unique(read_mask(path, printable(path))).astype(np.int64)
    except BrokenImage:
        return np.zeros(0, np.int64)
