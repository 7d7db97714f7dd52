"""Folders of images and masks: the layouts, the numbers of the masks to the pixel, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_trees import HEIGHT, WIDTH, few_bits, numbers, write_image, write_values
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.dense import IGNORE
from dinotrain.data.sources import mask_folder
from dinotrain.data.sources.mask_folder import MaskFolderSource
from dinotrain.errors import UserError


def tree(root: Path, count: int = 3, images: str = "images", masks: str = "masks") -> list[np.ndarray]:
    """Images 0.png, 1.png ..., each with a mask of numbers 0..4."""
    for index in range(count):
        write_image(root / images / f"{index}.png", index)
    return [
        write_values(root / masks / f"{index}.png", numbers(index, 4), palette=bool(index % 2))
        for index in range(count)
    ]


def line(root: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        MaskFolderSource(root=root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_masks_to_the_pixel(tmp_path: Path) -> None:
    masks = tree(tmp_path)
    source = MaskFolderSource(root=tmp_path)
    assert (len(source), source.targets, source.classes) == (3, ("masks",), ("0", "1", "2", "3", "4"))
    assert source.test() is None
    assert source.labels is None
    assert source.max_depth is None
    for index, mask in enumerate(masks):
        image, found = source.pair(index, "masks")
        assert (image == write_image(tmp_path / "again.png", index)).all()
        assert found.dtype == np.int64
        assert (found == mask).all()
    assert source.name(1) == "images/1.png"
    assert source.target_name(1, "masks") == "masks/1.png"
    with pytest.raises(UserError, match=r"^data: images/1\.png has no depth, only masks$"):
        source.pair(1, "depth")


@pytest.mark.parametrize(
    ("images", "masks"), [("{}/images", "{}/masks"), ("images/{}", "masks/{}"), ("a b/{}", "targets/{}")]
)
def test_splits(tmp_path: Path, images: str, masks: str) -> None:
    tree(tmp_path, 4, images.format("train"), masks.format("train"))
    expected = tree(tmp_path, 2, images.format("val"), masks.format("val"))
    names: dict[str, Any] = {"images": "a b", "masks": "targets"} if images.startswith("a b") else {}
    source = MaskFolderSource(root=tmp_path, **names)
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test()) == (4, 2, None)
    assert test.classes == source.classes
    assert (test.mask(1) == expected[1]).all()
    assert test.name(1) == f"{images.format('val')}/1.png"
    assert source.fingerprint() != test.fingerprint()
    assert source.fingerprint().startswith("masks:4:")


def test_the_larger_number_of_classes_of_both_splits_counts(tmp_path: Path) -> None:
    tree(tmp_path, 2, "images/train", "masks/train")
    write_image(tmp_path / "images" / "test" / "0.jpg")
    write_values(tmp_path / "masks" / "test" / "0.png", numbers(0, 8))
    assert len(MaskFolderSource(root=tmp_path).classes) == 9


def test_a_stray_number_is_told(tmp_path: Path) -> None:
    tree(tmp_path)
    write_values(tmp_path / "masks" / "2.png", numbers(0, 2) + np.uint8(75) * (numbers(0, 2) == 2))
    told = (
        "data.classes: 78 by the largest number, in masks/2.png; only 0, 1, 2, 3, 4, 77 occur; set data.classes, or "
        "data.ignore or data.values, if these are not the classes"
    )
    with pytest.warns(UserWarning, match=f"^{told}$"):
        assert len(MaskFolderSource(root=tmp_path).classes) == 78
    # Not a word where the classes are given, or the number is none of them.
    assert len(MaskFolderSource(root=tmp_path, classes=80).classes) == 80
    assert len(MaskFolderSource(root=tmp_path, ignore=[77]).classes) == 5
    write_values(tmp_path / "masks" / "2.png", numbers(0, 4) + np.uint8(2) * (numbers(0, 4) == 4))
    with pytest.warns(UserWarning, match="7 by the largest number, in masks/2.png; 5 never occur;"):
        MaskFolderSource(root=tmp_path)


def test_sub_folders_and_other_formats(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a" / "1.jpg", 1)
    write_image(tmp_path / "images" / "b" / "1.webp", 2)
    first = write_values(tmp_path / "masks" / "a" / "1.png", numbers(1, 3))
    second = numbers(2, 3)
    (tmp_path / "masks" / "b").mkdir()
    Image.fromarray(second).save(tmp_path / "masks" / "b" / "1.tif")
    source = MaskFolderSource(root=tmp_path)
    assert [source.name(index) for index in (0, 1)] == ["images/a/1.jpg", "images/b/1.webp"]
    assert (source.mask(0) == first).all()
    assert (source.mask(1) == second).all()


def test_of_several_files_of_one_name_the_mask_is_taken(tmp_path: Path) -> None:
    masks = tree(tmp_path)
    write_image(tmp_path / "masks" / "0.jpg")
    (tmp_path / "masks" / "0.txt").write_text("words")
    assert (MaskFolderSource(root=tmp_path).mask(0) == masks[0]).all()


def test_a_moved_set_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    tree(tmp_path / "one")
    before = MaskFolderSource(root=tmp_path / "one").fingerprint()
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert MaskFolderSource(root=tmp_path / "two").fingerprint() == before
    assert MaskFolderSource(root=tmp_path / "two", ignore=[4]).fingerprint() != before
    (tmp_path / "two" / "images" / "2.png").unlink()
    assert MaskFolderSource(root=tmp_path / "two").fingerprint() != before


def test_pixels_without_a_class(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [2, 255, 0]], np.uint8)
    write_image(tmp_path / "images" / "0.png", size=(2, 3))
    write_values(tmp_path / "masks" / "0.png", values)
    source = MaskFolderSource(root=tmp_path)
    assert len(source.classes) == 3
    assert source.mask(0).tolist() == [[0, 1, IGNORE], [2, IGNORE, 0]]
    other = MaskFolderSource(root=tmp_path, ignore=[0, 255], classes=["sky", "sea", "land"])
    assert other.classes == ("sky", "sea", "land")
    assert other.mask(0).tolist() == [[IGNORE, 1, IGNORE], [2, IGNORE, IGNORE]]


def test_classes_under_other_numbers(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png", size=(1, 3))
    write_values(tmp_path / "masks" / "0.png", np.array([[0, 255, 0]], np.uint8))
    assert line(tmp_path) == (
        "data.classes: the masks hold only [0, 255], of which [255] have no class (data.ignore): nothing to tell "
        "apart; data.values=[0,255] data.ignore=[] takes such numbers as classes 0 and 1"
    )
    source = MaskFolderSource(root=tmp_path, values=[0, 255], ignore=[])
    assert source.mask(0).tolist() == [[0, 1, 0]]
    assert source.classes == ("0", "1")


def test_names_in_a_file(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\ncat\ndog\nsheep\ncow\n\n")
    assert MaskFolderSource(root=tmp_path).classes == ("ground", "cat", "dog", "sheep", "cow")
    assert MaskFolderSource(root=tmp_path, classes=7).classes[6] == "6"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_keeps_its_numbers(tmp_path: Path, bits: int) -> None:
    values = numbers(bits, 2**bits - 1)
    write_image(tmp_path / "images" / "0.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "0.png").write_bytes(few_bits(values, bits))
    assert (MaskFolderSource(root=tmp_path, classes=2**bits).mask(0) == values).all()


def test_the_ways_to_write_grey(tmp_path: Path) -> None:
    values = numbers(1, 5)
    for index in range(4):
        write_image(tmp_path / "images" / f"{index}.png")
    (tmp_path / "masks").mkdir()
    grey = Image.fromarray(values)
    grey.convert("RGB").save(tmp_path / "masks" / "0.png")
    grey.convert("RGBA").save(tmp_path / "masks" / "1.png")
    grey.convert("LA").save(tmp_path / "masks" / "2.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "masks" / "3.png")
    source = MaskFolderSource(root=tmp_path)
    assert all((source.mask(index) == values).all() for index in range(4))


def test_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    read = []
    count = mask_folder.read_mask
    monkeypatch.setattr(mask_folder, "read_mask", lambda path, name: read.append(name) or count(path, name))
    assert len(MaskFolderSource(root=tmp_path).classes) == 5
    assert len(MaskFolderSource(root=tmp_path).classes) == 5
    assert len(read) == 3
    write_values(tmp_path / "masks" / "1.png", np.full((HEIGHT, WIDTH), 5, np.uint8))
    assert len(MaskFolderSource(root=tmp_path).classes) == 6
    assert len(read) == 6


def test_another_size_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    write_values(tmp_path / "masks" / "1.png", numbers(0, 4, size=(3, 4)))
    source = MaskFolderSource(root=tmp_path)
    with pytest.raises(UserError, match=r"^data\.root: masks/1\.png is 4x3 px, its image images/1\.png 8x6 px$"):
        source.pair(1, "masks")


def test_photographs_that_were_turned(tmp_path: Path) -> None:
    """A mask fits the picture as it is displayed; one that fits it as it is stored is refused."""
    tree(tmp_path, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{index}.png", exif=exif)
    upright = write_values(tmp_path / "masks" / "0.png", numbers(3, 4, size=(WIDTH, HEIGHT)))
    source = MaskFolderSource(root=tmp_path)
    image, mask = source.pair(0, "masks")
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert (mask == upright).all()
    with pytest.raises(UserError, match=r"masks/1\.png is 8x6 px, its image .* 6x8 px; it must lie as .* EXIF"):
        source.pair(1, "masks")


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    source = MaskFolderSource(root=tmp_path, classes=4)
    message = r"^data\.classes: masks/0\.png holds the number 4, expected 0\.\.3, or 255 for none \(4 classes\)$"
    with pytest.raises(UserError, match=message):
        source.mask(0)
    other = MaskFolderSource(root=tmp_path, values=[0, 2, 3], ignore=[])
    with pytest.raises(UserError, match=r"holds the number [14], expected 0, 2\.\.3 \(3 classes\)$"):
        other.mask(0)


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    write_image(tmp_path / "masks" / "1.png")
    assert line(tmp_path).endswith("masks/1.png holds colours (mode RGB), expected numbers: a grey or palette PNG")
    (tmp_path / "masks" / "1.png").unlink()
    write_image(tmp_path / "masks" / "1.jpg")
    assert "masks/1.jpg is a JPEG, whose compression changes numbers; expected a PNG" in line(tmp_path)
    (tmp_path / "masks" / "1.jpg").unlink()
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)).save(tmp_path / "masks" / "1.tif")
    assert "masks/1.tif holds fractions (float32), expected class numbers" in line(tmp_path)


def test_objects_are_no_classes(tmp_path: Path) -> None:
    tree(tmp_path)
    write_values(tmp_path / "masks" / "2.png", np.full((HEIGHT, WIDTH), 26001, np.uint16))
    assert line(tmp_path).startswith("data.classes: masks/2.png holds the number 26001, too large for a class;")


def test_a_damaged_mask_is_a_broken_image(tmp_path: Path) -> None:
    tree(tmp_path)
    data = (tmp_path / "masks" / "1.png").read_bytes()
    (tmp_path / "masks" / "1.png").write_bytes(data[: len(data) - 30])
    (tmp_path / "masks" / "2.png").write_bytes(b"words")
    source = MaskFolderSource(root=tmp_path)
    assert (source.mask(0) <= 4).all()
    with pytest.raises(BrokenImage, match=r"^masks/1\.png: .*truncated"):
        source.pair(1, "masks")
    with pytest.raises(BrokenImage, match=r"^masks/2\.png is not an image"):
        source.pair(2, "masks")


def test_partners_that_are_missing(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "masks" / "0.png").unlink()
    (tmp_path / "masks" / "2.png").unlink()
    assert line(tmp_path) == (
        f"data.root: 2 of the 3 images in {tmp_path}/images have no mask in {tmp_path}/masks; the first is 0.png"
    )


def test_images_with_one_mask(tmp_path: Path) -> None:
    tree(tmp_path)
    write_image(tmp_path / "images" / "1.jpg")
    assert line(tmp_path) == (
        f"data.root: 1.jpg and 1.png in {tmp_path}/images have one mask, 1.png; expected one image for each"
    )


def test_folders_that_are_missing_or_empty(tmp_path: Path) -> None:
    assert line(tmp_path / "none").endswith("none does not exist, expected a folder with images and masks")
    assert line(tmp_path) == (
        f"data.root: {tmp_path} has no folder images; expected images and masks in it, or in its folders train and val "
        "(data.images and data.masks give other names)"
    )
    (tmp_path / "images").mkdir()
    assert f"there is no folder {tmp_path}/masks, expected the masks of the images in" in line(tmp_path)
    (tmp_path / "masks").mkdir()
    assert line(tmp_path) == f"data.root: no images in {tmp_path}/images"
    assert "is a URL, expected a folder on a local disk" in line("s3://bucket/set")  # pyright: ignore[reportArgumentType]


def test_an_empty_split_is_refused_at_once(tmp_path: Path) -> None:
    tree(tmp_path, 2, "images/train", "masks/train")
    (tmp_path / "images" / "val").mkdir()
    assert "there is no folder" in line(tmp_path)
    (tmp_path / "masks" / "val").mkdir()
    assert line(tmp_path) == f"data.root: no images in {tmp_path}/images/val"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, "classes: got 1, must be 2 to 1000"),
        ({"classes": "sky"}, "classes: got 'sky', must be their number or a list of their names"),
        ({"classes": 3, "values": [0, 255], "ignore": []}, "classes: got 3, must be as many as values, 2"),
        ({"ignore": 255}, r"ignore: got 255, must be a list of different whole numbers, such as \[255\]"),
        ({"ignore": [-1]}, r"ignore: got -1, must be a whole number in 0\.\.65535"),
        ({"values": [0, 255]}, "values: got 255, which is among those of ignore; expected others"),
        ({"split": "val"}, "split: got 'val', must be 'train' or 'test'"),
        ({"min_size": 0}, "min_size: got 0, must be a whole number at least 1"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    tree(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}"):
        MaskFolderSource(root=tmp_path, **settings)
