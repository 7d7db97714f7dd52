from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.multilabel_coco import CocoSource
from dinotrain.data.sources.multilabel_csv import MultiLabelCsvSource
from dinotrain.data.sources.multilabel_voc import VocLabelsSource
from dinotrain.errors import UserError


def picture(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 20, 3), value, np.uint8)).save(path)


def table(folder: Path, *rows: str, head: str = "path,labels", name: str = "train.csv") -> Path:
    for number in range(3):
        picture(folder / "images" / f"{number}.png", 10 * number)
    (folder / name).write_text("\n".join([head, *rows]))
    return folder / name


ROWS = ("images/0.png,dog;cat", "images/1.png,cat", "images/2.png,bird; dog")


def test_labels_of_a_table(tmp_path: Path) -> None:
    source = MultiLabelCsvSource(root=table(tmp_path, *ROWS))
    assert source.classes == ("bird", "cat", "dog")
    assert source.multi_labels.tolist() == [[False, True, True], [False, True, False], [True, False, True]]
    assert source.labels is None
    assert source.test() is None
    assert source.name(1) == "images/1.png"
    assert source.image(2).mean() == 20


@pytest.mark.parametrize(("separator", "between"), [("|", "|"), (None, "  "), (" and ", " and ")])
def test_other_separators(tmp_path: Path, separator: str | None, between: str) -> None:
    root = table(tmp_path, f"images/0.png,dog{between}cat", "images/1.png,cat")
    source = MultiLabelCsvSource(root=root, separator=separator)
    assert source.classes == ("cat", "dog")
    assert source.multi_labels.tolist() == [[True, True], [True, False]]


def test_columns_of_other_names_and_a_separator_alone_for_no_label(tmp_path: Path) -> None:
    root = table(tmp_path, "1,images/0.png,10;9", "2,images/1.png,;", head="id,file,tags")
    source = MultiLabelCsvSource(root=root, path_column="file", label_column="tags")
    assert source.classes == ("9", "10")
    assert source.multi_labels.tolist() == [[True, True], [False, False]]


def test_the_test_table_has_the_classes_of_the_other(tmp_path: Path) -> None:
    root = table(tmp_path, *ROWS)
    test_root = table(tmp_path, "images/0.png,dog", name="test.csv")
    test = MultiLabelCsvSource(root=root, test_root=test_root).test()
    assert test is not None
    assert test.classes == ("bird", "cat", "dog")
    assert test.multi_labels.tolist() == [[False, False, True]]
    table(tmp_path, "images/0.png,wolf", name="test.csv")
    with pytest.raises(UserError, match=r"data\.root: .*test\.csv: label 'wolf' is none of the 3 classes"):
        MultiLabelCsvSource(root=root, test_root=test_root).test()


def test_an_image_that_is_missing_is_broken(tmp_path: Path) -> None:
    source = MultiLabelCsvSource(root=table(tmp_path, *ROWS, "images/none.png,cat"))
    with pytest.raises(BrokenImage):
        source.image(3)


def test_tables_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.label_column: .* has no column tags; there are: path, labels"):
        MultiLabelCsvSource(root=table(tmp_path, *ROWS), label_column="tags")
    with pytest.raises(UserError, match=r"none for images/1\.png"):
        MultiLabelCsvSource(root=table(tmp_path, ROWS[0], "images/1.png,"))
    with pytest.raises(UserError, match="no path in"):
        MultiLabelCsvSource(root=table(tmp_path))
    with pytest.raises(UserError, match="has no labels in the column label"):
        MultiLabelCsvSource(root=table(tmp_path, "images/0.png,3", head="path,size"), label_column="label")
    with pytest.raises(ValueError, match="separator: got ''"):
        MultiLabelCsvSource(root=table(tmp_path, *ROWS), separator="")


def test_fingerprints_tell_labels_apart(tmp_path: Path) -> None:
    first = MultiLabelCsvSource(root=table(tmp_path, *ROWS)).fingerprint()
    other = MultiLabelCsvSource(root=table(tmp_path, *ROWS[:2], "images/2.png,bird")).fingerprint()
    assert first != other
    assert first == MultiLabelCsvSource(root=table(tmp_path / "moved", *ROWS)).fingerprint()


CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]
IMAGES = [{"id": 30, "file_name": "a.jpg"}, {"id": 10, "file_name": "b.jpg"}, {"id": 20, "file_name": "c.jpg"}]
OBJECTS = [
    {"image_id": 10, "category_id": 7, "iscrowd": 1},
    {"image_id": 30, "category_id": 2},
    {"image_id": 30, "category_id": 2},
    {"image_id": 30, "category_id": 7},
]


def coco(root: Path, split: str = "train2017", **changes: Any) -> Path:
    for image in IMAGES[:2]:
        picture(root / split / image["file_name"])
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": OBJECTS} | changes
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_labels_of_coco(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the cache
        source = CocoSource(root=coco(tmp_path))
        assert source.classes == ("cat", "dog")
        assert source.multi_labels.tolist() == [[True, True], [False, True], [False, False]]
    assert source.name(1) == "b.jpg"
    assert source.image(1).shape == (16, 20, 3)
    with pytest.raises(BrokenImage):
        source.image(2)
    assert source.test() is None


def test_the_test_split_of_coco(tmp_path: Path) -> None:
    coco(tmp_path, "val2017", images=IMAGES[:2], annotations=OBJECTS[1:])
    source = CocoSource(root=coco(tmp_path))
    test = source.test()
    assert test is not None
    assert len(test) == 2
    assert test.classes == source.classes
    assert test.test() is None
    assert CocoSource(root=tmp_path, test_split=None).test() is None


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    assert CocoSource(root=coco(tmp_path)).multi_labels.sum() == 3
    assert CocoSource(root=coco(tmp_path, annotations=OBJECTS[:1])).multi_labels.sum() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": [{"image_id": 10, "category_id": 5}]}, "image 10 has an object of category 5, which is none"),
        ({"annotations": [{"image_id": 11, "category_id": 7}]}, "an object in image 11, which is none of the 3"),
        ({"annotations": [{"id": 1}]}, "not laid out as COCO's .*image_id"),
        ({"images": []}, "it has 0 images and 2 categories"),
        ({"categories": [*CATEGORIES, {"id": 3, "name": "cat"}]}, "stands there twice"),
        ({"images": 3}, "not laid out as COCO's"),
    ],
)
def test_coco_files_that_are_wrong(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.root: .*instances_train2017\.json: .*{words}"):
        CocoSource(root=coco(tmp_path, **changes))


def test_what_coco_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        CocoSource(root=tmp_path / "none")
    with pytest.raises(UserError, match=r"instances_train2017\.json is missing"):
        CocoSource(root=tmp_path)
    coco(tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        CocoSource(root=tmp_path)


def voc(root: Path, split: str = "train", **files: str) -> Path:
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    content = {"": "2008_1\n2008_2\n", "dog_": "2008_1  1\n2008_2 -1\n", "cat_": "2008_1  0\n2008_2  1\n"} | files
    for name, text in content.items():
        (lists / f"{name}{split}.txt").write_text(text)
    for name in ("2008_1", "2008_2"):
        picture(root / "JPEGImages" / f"{name}.jpg")
    return root


def test_labels_of_voc(tmp_path: Path) -> None:
    voc(tmp_path, "trainval", bird_="2008_1 1\n2008_2 1\n")
    voc(tmp_path, "val")
    source = VocLabelsSource(root=voc(tmp_path))
    assert source.classes == ("cat", "dog")
    assert source.multi_labels.tolist() == [[True, True], [True, False]]
    assert source.name(0) == "JPEGImages/2008_1.jpg"
    assert source.image(0).shape == (16, 20, 3)
    test = source.test()
    assert test is not None
    assert test.test() is None
    absent = VocLabelsSource(root=tmp_path, difficult="absent", test_split="test")
    assert absent.multi_labels.tolist() == [[False, True], [True, False]]
    assert absent.test() is None
    assert absent.fingerprint() != source.fingerprint()


def test_voc_folders_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder, expected VOC's"):
        VocLabelsSource(root=tmp_path / "none")
    with pytest.raises(UserError, match=r"can't read .*Main/train\.txt"):
        VocLabelsSource(root=tmp_path)
    with pytest.raises(UserError, match=r"cat_train\.txt lacks the image 2008_2"):
        VocLabelsSource(root=voc(tmp_path / "a", cat_="2008_1 1\n"))
    with pytest.raises(UserError, match=r"dog_train\.txt: got the line '2008_1 2'"):
        VocLabelsSource(root=voc(tmp_path / "b", dog_="2008_1 2\n"))
    with pytest.raises(UserError, match="names no image"):
        VocLabelsSource(root=voc(tmp_path / "c", **{"": ""}))
    with pytest.raises(ValueError, match="difficult: got 'some', expected one of absent, present"):
        VocLabelsSource(root=voc(tmp_path / "d"), difficult="some")
    with pytest.raises(ValueError, match="min_size: got 0"):
        VocLabelsSource(root=voc(tmp_path / "e"), min_size=0)
