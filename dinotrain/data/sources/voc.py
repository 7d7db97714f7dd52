"""Pascal VOC 2012 segmentation."""

from __future__ import annotations

import os
from os import PathLike

from dinotrain.data.dense import IGNORE
from dinotrain.data.paths import printable
from dinotrain.data.sources.pair_source import MaskPairs
from dinotrain.data.sources.pairs import existing_folder, pair_list
from dinotrain.errors import UserError

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_PLACES = (b"", b"VOC2012", b"VOCdevkit/VOC2012")
_LISTS = b"ImageSets/Segmentation"
_MASKS, _MORE_MASKS = b"SegmentationClass", b"SegmentationClassAug"
_AUGMENTED_LISTS = (b"trainaug.txt", b"train_aug.txt")
_VOID = 255


class VocSource(MaskPairs):
    """Images named in ImageSets/Segmentation/{train,val}.txt, masks in SegmentationClass: 21 classes, 255 is void.

    Everingham et al., The Pascal Visual Object Classes Challenge: A Retrospective, IJCV 2015.

    Args:
        root: the folder VOC2012, VOCdevkit, or the one above that.
        augmented: train on the images of trainaug.txt or train_aug.txt, with the masks of SegmentationClassAug
            (Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011), or for images that have none
            there, of SegmentationClass.
        split: "train" or "test", the latter the images of val.txt.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: a list, an image or a mask is missing.
    """

    def __init__(
        self, *, root: str | PathLike[str], augmented: bool = False, split: str = "train", min_size: int = 1
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}, must be 'train' or 'test'")
        given = existing_folder(root, "VOC2012")
        top = next(
            (p for place in _PLACES if os.path.isdir(os.path.join(p := os.path.join(given, place), _LISTS))), None
        )
        if top is None:
            raise UserError(
                f"data.root: no VOC in {printable(given)}, expected {printable(_LISTS)} in it or in VOC2012"
            )
        more = augmented and split == "train"
        file = _list_file(top, more) if split == "train" else os.path.join(top, _LISTS, b"val.txt")
        pairs = [_pair(top, line, more) for line in _lines(file)]
        super().__init__(
            root=os.path.normpath(top),
            pairs=pair_list(top, pairs, printable(file)),
            classes=CLASSES,
            numbers={number: number for number in range(len(CLASSES))} | {_VOID: IGNORE},
            kind="voc",
            min_size=min_size,
        )
        self._split, self._augmented = split, augmented

    def test(self) -> VocSource | None:
        """The images of val.txt, for those of training."""
        if self._split == "test" or not os.path.isfile(os.path.join(self._root, _LISTS, b"val.txt")):
            return None
        return VocSource(root=os.fsdecode(self._root), split="test", min_size=self.min_size)


def _list_file(top: bytes, augmented: bool) -> bytes:
    names = _AUGMENTED_LISTS if augmented else (b"train.txt",)
    places = [os.path.join(top, folder, name) for folder in (_LISTS, b"") for name in names]
    found = next(filter(os.path.isfile, places), None)
    if found is None:
        raise UserError(f"data.root: there is no {printable(places[0])}, expected the list of the images to train on")
    return found


def _lines(file: bytes) -> list[bytes]:
    if not os.path.isfile(file):
        raise UserError(f"data.root: there is no {printable(file)}, expected a list of images")
    with open(file, "rb") as lines:
        return [line.strip() for line in lines if line.strip()]


def _pair(top: bytes, line: bytes, augmented: bool) -> tuple[bytes, bytes]:
    """Image and mask of a line: the name of the image, or both paths, as some lists of augmented images have them."""
    parts = [part.lstrip(b"/") for part in line.split()]
    if len(parts) == 2 and parts[1].endswith(b".png"):
        return parts[0], parts[1]
    mask = os.path.join(_MORE_MASKS if augmented else _MASKS, parts[0] + b".png")
    if augmented and not os.path.isfile(os.path.join(top, mask)):
        mask = os.path.join(_MASKS, parts[0] + b".png")
    return os.path.join(b"JPEGImages", parts[0] + b".jpg"), mask
