"""ImageNet (ILSVRC2012) in the layouts that it usually has on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from os import PathLike

from dinotrain.data.paths import printable
from dinotrain.data.sources.folder import FolderSource
from dinotrain.data.sources.imagenet_labels import WNID, NoScipy, read_labels
from dinotrain.errors import UserError

_PLACES = (b"", b"ILSVRC/Data/CLS-LOC", b"Data/CLS-LOC", b"CLS-LOC")
_DEVKIT = b"ILSVRC2012_validation_ground_truth.txt"
_LABEL_FILES = (
    *(b"LOC_val_solution.csv", b"val.txt", b"val_labels.txt", b"val_annotations.txt", _DEVKIT, b"data/" + _DEVKIT),
    *(b"devkit/data/" + _DEVKIT, b"ILSVRC2012_devkit_t12/data/" + _DEVKIT),
)
_MAPPING = b"LOC_synset_mapping.txt"  # of all classes, while words.txt has all that WordNet knows
_NAME_FILES = (_MAPPING, b"words.txt")


class ImageNetSource(FolderSource):
    """The training images, `train/<wnid>/*.JPEG`; `test()` are the validation images.

    These lie in folders named as the classes, or all together in `val`, with a label file: Kaggle's
    `LOC_val_solution.csv`, a text file with a name and a WordNet number (wnid), or the rank from 0 among the sorted
    wnids, on each line, or the development kit's `ILSVRC2012_validation_ground_truth.txt` beside its `meta.mat`.
    Kaggle's tree `ILSVRC/Data/CLS-LOC/{train,val}` is found, too. Classes are numbered by their sorted wnids; with
    `LOC_synset_mapping.txt` or `words.txt` in the root their names say what they are.

    Args:
        root: folder that holds `train` and `val`, or Kaggle's tree.
        val_labels: the label file, by default one of those above in the root or beside the images.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: no such folder, no image, or sub-folders of `train` that are not named by wnids.
    """

    def __init__(
        self, *, root: str | PathLike[str], val_labels: str | PathLike[str] | None = None, min_size: int = 1
    ) -> None:
        self._val_labels = None if val_labels is None else os.path.abspath(os.path.expanduser(os.fsencode(val_labels)))
        if self._val_labels is not None and not os.path.isfile(self._val_labels):
            raise UserError(f"data.val_labels: {printable(self._val_labels)} is no file, expected labels of val")
        super().__init__(root=root, min_size=min_size)
        self._wnids = self.classes or ()
        self._check_classes()
        self._names = _class_names(self._find(_NAME_FILES))
        self.classes = self._named(self._wnids)

    def test(self) -> FolderSource | None:
        """The validation images, with the class numbers of the training images; None where their labels are unknown.

        Raises:
            UserError: the label file lacks an image, or can't be read.
        """
        if self._test_root is None:
            return None
        test = FolderSource(root=os.fsdecode(self._test_root), min_size=self.min_size, classes=self._wnids)
        if test.classes is None or not all(map(WNID.fullmatch, test.classes)):
            file = self._val_labels or self._find(_LABEL_FILES)
            if file is None:
                return self._no_test(f"no labels for the images in {printable(self._test_root)}")
            ranks = sorted(_class_names(self._find([_MAPPING]))) or self._wnids
            try:
                test.labels, test.classes = read_labels(file, list(test.paths), self._wnids, ranks)
            except NoScipy as error:
                if self._val_labels is not None:
                    raise
                return self._no_test(str(error))
        test.classes = self._named(test.classes)
        return test

    def _splits(self, top: bytes) -> tuple[bytes, bytes | None]:
        self._top = top
        for place in _PLACES:
            train, val = (os.path.join(top, place, split) for split in (b"train", b"val"))
            if os.path.isdir(train):
                return train, val if os.path.isdir(val) else None
        raise UserError(f"data.root: {printable(top)} has no folder train, nor {printable(_PLACES[1])}/train")

    def _check_classes(self) -> None:
        odd = [name for name in self._wnids if not WNID.fullmatch(name)]
        if odd or not self._wnids:
            found = f"the folder {printable(os.fsencode(odd[0]))}" if odd else "images that are not in class folders"
            raise UserError(
                f"data.root: {printable(self._root)} holds {found}; expected two or more folders named by wnids such "
                "as n01440764 (data=folder reads folders of any names)"
            )

    def _find(self, names: Iterable[bytes]) -> bytes | None:
        """The first of these files that is in the root, or beside or in the folder of the validation images."""
        above = os.path.dirname(self._root)
        places = dict.fromkeys((self._top, above, self._test_root or above))
        files = (os.path.join(place, name) for name in names for place in places)
        return next(filter(os.path.isfile, files), None)

    def _named(self, wnids: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{wnid} {self._names[wnid]}" if wnid in self._names else wnid for wnid in wnids)

    def _no_test(self, reason: str) -> None:
        warnings.warn(
            f"data.root: {reason}, so there is no test split; data.val_labels=FILE gives LOC_val_solution.csv or lines "
            "of a file name and a wnid",
            stacklevel=3,
        )


def _class_names(file: bytes | None) -> dict[str, str]:
    """First name of each wnid, from lines of a wnid and names with commas between them."""
    if file is None:
        return {}
    with open(file, encoding="utf-8", errors="backslashreplace") as lines:
        parts = (line.strip().replace("\t", " ").partition(" ") for line in lines)
        return {wnid: names.partition(",")[0].strip() for wnid, _, names in parts if WNID.fullmatch(wnid) and names}
