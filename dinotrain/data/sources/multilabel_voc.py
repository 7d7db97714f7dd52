"""PASCAL VOC's images with the classes of the objects in them."""

from __future__ import annotations

import os
from os import PathLike

import numpy as np
from jaxtyping import Bool

from dinotrain.data.paths import PathTable, printable
from dinotrain.data.sources.multilabel import MultiLabelSource, existing_folder
from dinotrain.errors import UserError

_DIFFICULT = {"absent": False, "present": True}


class VocLabelsSource(MultiLabelSource):
    """Images in `<root>/JPEGImages`, with their classes in `<root>/ImageSets/Main/<class>_<split>.txt`.

    Each line there has the name of an image and 1 (there is such an object), -1 (there is none) or 0 (there are only
    ones that are hard to recognise). (Everingham et al. 2010; development kits of 2007 and 2012.)

    Args:
        root: folder of one year, such as VOCdevkit/VOC2012.
        split: "train", "val", "trainval", or for 2007 also "test".
        test_split: that of `test()`; None for no test split.
        difficult: "present" or "absent": what objects count as that are hard to recognise.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: no such folder or split, or something is wrong in its files.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        split: str = "train",
        test_split: str | None = "val",
        difficult: str = "present",
        min_size: int = 1,
    ) -> None:
        if difficult not in _DIFFICULT:
            raise ValueError(f"difficult: got {difficult!r}, expected one of {', '.join(_DIFFICULT)}")
        self._top, self._test_split = existing_folder(root, "VOC's with JPEGImages and ImageSets/Main"), test_split
        self._difficult = difficult
        lists = os.path.join(self._top, "ImageSets", "Main")
        names = [line[0] for line in _lines(os.path.join(lists, f"{split}.txt"))]
        if not names:
            raise UserError(f"data.root: {_shown(os.path.join(lists, f'{split}.txt'))} names no image")
        ending = f"_{split}.txt"
        classes = sorted(file.removesuffix(ending) for file in os.listdir(lists) if file.endswith(ending))
        if not classes:
            raise UserError(f"data.root: {_shown(lists)} has no file <class>{ending}, expected one per class")
        columns = [_column(os.path.join(lists, name + ending), names, _DIFFICULT[difficult]) for name in classes]
        super().__init__(
            root=self._top,
            paths=PathTable(os.fsencode(f"JPEGImages/{name}.jpg") for name in names),
            multi_labels=np.stack(columns, axis=1),
            classes=classes,
            min_size=min_size,
        )

    def test(self) -> VocLabelsSource | None:
        """The images of the test split, None where there is no list of them."""
        split = self._test_split
        if split is None or not os.path.isfile(os.path.join(self._top, "ImageSets", "Main", f"{split}.txt")):
            return None
        return VocLabelsSource(
            root=self._top, split=split, test_split=None, difficult=self._difficult, min_size=self.min_size
        )


def _lines(file: str) -> list[list[str]]:
    """The words of each line."""
    try:
        with open(file, encoding="utf-8") as lines:
            return [words for words in map(str.split, lines) if words]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise UserError(f"data.root: can't read {_shown(file)}: {reason}; expected VOC's layout") from error


def _column(file: str, names: list[str], difficult: bool) -> Bool[np.ndarray, "N"]:
    """Which of the images have the class of a file."""
    meaning = {"1": True, "-1": False, "0": difficult}
    found: dict[str, bool] = {}
    for words in _lines(file):
        if len(words) != 2 or words[1] not in meaning:
            raise UserError(
                f"data.root: {_shown(file)}: got the line {' '.join(words)!r}, expected a name and 1, 0 or -1"
            )
        found[words[0]] = meaning[words[1]]
    for name in names:
        if name not in found:
            raise UserError(f"data.root: {_shown(file)} lacks the image {name}, which is in the split")
    return np.array([found[name] for name in names])


def _shown(path: str) -> str:
    return printable(os.fsencode(path))
