"""ADE20K, VOC and Cityscapes: small trees of the published layouts, read to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dense_trees import numbers, write_image, write_values

from dinotrain.data.dense import IGNORE
from dinotrain.data.sources.ade20k import Ade20kSource
from dinotrain.data.sources.cityscapes import CLASSES as CITYSCAPES
from dinotrain.data.sources.cityscapes import CityscapesSource
from dinotrain.data.sources.voc import CLASSES as VOC
from dinotrain.data.sources.voc import VocSource
from dinotrain.errors import UserError


def ade20k(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Three images to train on, two to test on; the masks of the first of each."""
    masks = []
    for split, count in (("training", 3), ("validation", 2)):
        for index in range(count):
            name = f"{split}/ADE_{split[:-3]}_{index:08d}"
            write_image(root / "images" / f"{name}.jpg", index)
            masks.append(write_values(root / "annotations" / f"{name}.png", numbers(len(masks), 150)))
    return masks[0], masks[3]


@pytest.mark.parametrize("above", [True, False])
def test_ade20k(tmp_path: Path, above: bool) -> None:
    root = tmp_path / "ADEChallengeData2016"
    train, val = ade20k(root)
    train[0, :3] = 0, 1, 150
    write_values(root / "annotations" / "training" / "ADE_train_00000000.png", train)
    source = Ade20kSource(root=tmp_path if above else root)
    test = source.test()
    assert test is not None
    assert (len(source), len(test), len(source.classes), test.test()) == (3, 2, 150, None)
    assert (source.mask(0) == np.where(train == 0, IGNORE, train.astype(np.int64) - 1)).all()
    assert source.mask(0)[0, :3].tolist() == [IGNORE, 0, 149]
    assert (test.mask(0) == np.where(val == 0, IGNORE, val.astype(np.int64) - 1)).all()
    assert source.name(0) == "images/training/ADE_train_00000000.jpg"
    assert source.pair(0, "masks")[0].shape == (6, 8, 3)
    assert (source.classes[0], source.classes[149]) == ("1", "150")


def test_ade20k_names(tmp_path: Path) -> None:
    ade20k(tmp_path)
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
        "1\t0.1576\t11664\t1172\t1\twall\n2\t0.1072\t6046\t612\t1\tbuilding, edifice\n"
    )
    classes = Ade20kSource(root=tmp_path).classes
    assert classes[:3] == ("wall", "building", "3")


def test_ade20k_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^data\.root: no ADE20K in .*, expected images/training and annotations/train"
    ):
        Ade20kSource(root=tmp_path)
    ade20k(tmp_path)
    write_values(tmp_path / "annotations" / "training" / "ADE_train_00000001.png", np.full((6, 8), 151, np.uint8))
    (tmp_path / "annotations" / "validation" / "ADE_validat_00000001.png").unlink(missing_ok=True)
    source = Ade20kSource(root=tmp_path)
    with pytest.raises(UserError, match=r"00000001\.png holds the number 151, expected 1\.\.150, or 0 for none"):
        source.mask(1)
    with pytest.raises(UserError, match=r"1 of the 2 images in .*/validation have no mask in .*; the first is ADE_"):
        source.test()


NAMES = ("2007_000032", "2007_000039", "2008_000008")


def voc(root: Path) -> dict[str, np.ndarray]:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2008_000008\n")
    masks = {}
    for index, name in enumerate((*NAMES, "2010_000001")):
        write_image(root / "JPEGImages" / f"{name}.jpg", index)
        masks[name] = numbers(index, 20)
        masks[name][0, 0] = 255
        folder = "SegmentationClass" if name in NAMES else "SegmentationClassAug"
        write_values(root / folder / f"{name}.png", masks[name], palette=name in NAMES)
    return masks


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, place: str) -> None:
    masks = voc(tmp_path / place)
    source = VocSource(root=tmp_path)
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test(), source.classes) == (2, 1, None, VOC)
    assert len(VOC) == 21
    for index in range(2):
        expected = masks[NAMES[index]].astype(np.int64)
        expected[0, 0] = IGNORE
        assert (source.mask(index) == expected).all()
    assert test.name(0) == "JPEGImages/2008_000008.jpg"
    assert test.mask(0)[0, 0] == IGNORE


@pytest.mark.parametrize(
    "text", ["2007_000032\n2010_000001\n", "/JPEGImages/2010_000001.jpg /SegmentationClassAug/2010_000001.png\n"]
)
def test_voc_with_more_masks(tmp_path: Path, text: str) -> None:
    masks = voc(tmp_path)
    with pytest.raises(UserError, match=r"there is no .*/trainaug\.txt, expected the list of the images to train on"):
        VocSource(root=tmp_path, augmented=True)
    name = "train_aug.txt" if text.startswith("/") else "trainaug.txt"
    (tmp_path / "ImageSets" / "Segmentation" / name).write_text(text)
    source = VocSource(root=tmp_path, augmented=True)
    last = len(source) - 1
    assert len(source) == text.count("\n")
    assert source.target_name(last, "masks") == "SegmentationClassAug/2010_000001.png"
    assert (source.mask(last)[1:] == masks["2010_000001"][1:]).all()
    assert source.target_name(0, "masks").startswith("SegmentationClass")
    test = source.test()
    assert test is not None
    assert test.target_name(0, "masks") == "SegmentationClass/2008_000008.png"


def test_voc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^data\.root: no VOC in .*, expected ImageSets/Segmentation in it or in VOC2012"
    ):
        VocSource(root=tmp_path)
    voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_000039.png").unlink()
    message = r"1 of the 4 files named in .*train\.txt are missing; the first is .*SegmentationClass/2007_000039\.png"
    with pytest.raises(UserError, match=message):
        VocSource(root=tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(UserError, match=r"^data\.root: no images in .*val\.txt$"):
        VocSource(root=tmp_path, split="test")


def cityscapes(root: Path, kind: str, most: int) -> list[np.ndarray]:
    """Two cities to train on, one to test on, and the files that are not meant."""
    masks = []
    for split, city, frame in (("train", "aachen", 1), ("train", "zurich", 2), ("val", "munster", 3)):
        stem = f"{split}/{city}/{city}_{frame:06d}_000019"
        write_image(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", frame)
        masks.append(write_values(root / "gtFine" / f"{stem}_gtFine_{kind}.png", numbers(frame, most)))
        write_values(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", numbers(frame, 99).astype(np.uint16))
        write_image(root / "gtFine" / f"{stem}_gtFine_color.png")
    return masks


def test_cityscapes(tmp_path: Path) -> None:
    masks = cityscapes(tmp_path, "labelIds", 33)
    masks[0][0] = [0, 6, 7, 8, 11, 17, 31, 33]
    write_values(tmp_path / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png", masks[0])
    source = CityscapesSource(root=tmp_path)
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test(), source.classes) == (2, 1, None, CITYSCAPES)
    assert len(CITYSCAPES) == 19
    assert source.name(1) == "leftImg8bit/train/zurich/zurich_000002_000019_leftImg8bit.png"
    names = [CITYSCAPES[number] if number != IGNORE else None for number in source.mask(0)[0].tolist()]
    assert names == [None, None, "road", "sidewalk", "building", "pole", "train", "bicycle"]
    of_train = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    of_train |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for index in range(2):
        expected = [[of_train.get(number, IGNORE) for number in row] for row in masks[index].tolist()]
        assert source.mask(index).tolist() == expected


def test_cityscapes_with_numbers_of_classes(tmp_path: Path) -> None:
    masks = cityscapes(tmp_path, "labelTrainIds", 18)
    cityscapes(tmp_path, "labelIds", 33)
    masks[0][0, :2] = 255, 18
    write_values(tmp_path / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelTrainIds.png", masks[0])
    source = CityscapesSource(root=tmp_path)
    assert source.mask(0)[0, :2].tolist() == [IGNORE, 18]
    assert (source.mask(1) == masks[1]).all()


def test_cityscapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.root: no Cityscapes in .*: there is no .*/leftImg8bit/train$"):
        CityscapesSource(root=tmp_path)
    cityscapes(tmp_path, "labelIds", 33)
    (tmp_path / "gtFine/train/zurich/zurich_000002_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(
        UserError, match=r"1 of the 2 images in .* have no mask \*_gtFine_labelIds\.png in .*; the first"
    ):
        CityscapesSource(root=tmp_path)
    (tmp_path / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"no \*_gtFine_labelIds\.png in .*train, expected the masks of Cityscapes"):
        CityscapesSource(root=tmp_path)
