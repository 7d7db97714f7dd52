"""COCO's images with the classes of the objects in them."""

from __future__ import annotations

import json
import os
from os import PathLike
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Bool

from dinotrain.data.paths import PathTable, printable
from dinotrain.data.sources.multilabel import MultiLabelSource, existing_folder
from dinotrain.data.storage.table import cached
from dinotrain.errors import UserError


class CocoSource(MultiLabelSource):
    """Images in `<root>/<split>`, with the categories of their objects in `<root>/annotations/instances_<split>.json`.

    Crowds count as objects. An image without an object has no class. Classes are in the order of their ids. What was
    read is cached until the file changes. (Lin et al. 2014, arXiv:1405.0312; layout of cocodataset.org.)

    Args:
        root: folder with `annotations` and the folders of images.
        split: name of both the images' folder and of the end of the file's name.
        test_split: that of `test()`; None for no test split.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: no such folder or file, or something is wrong in the file.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        split: str = "train2017",
        test_split: str | None = "val2017",
        min_size: int = 1,
    ) -> None:
        self._top, self._test_split = existing_folder(root, "COCO's with annotations and images"), test_split
        file = os.path.join(self._top, "annotations", f"instances_{split}.json")
        folder = os.path.join(self._top, split)
        for path, is_there in ((file, os.path.isfile), (folder, os.path.isdir)):
            if not is_there(path):
                raise UserError(f"data.root: {printable(os.fsencode(path))} is missing, expected COCO's layout")
        info = os.stat(file)
        stamp = np.array([info.st_size, info.st_ctime_ns])
        arrays = cached(
            "coco",
            f"1\0{file}",
            lambda: _read(file) | {"stamp": stamp},
            lambda stored: np.array_equal(stored["stamp"], stamp),
        )
        super().__init__(
            root=folder,
            paths=PathTable.from_cache(arrays, "paths"),
            multi_labels=arrays["labels"],
            classes=[name.decode() for name in PathTable.from_cache(arrays, "classes")],
            min_size=min_size,
        )

    def test(self) -> CocoSource | None:
        """The images of the test split, None where there is no such file."""
        split = self._test_split
        if split is None or not os.path.isfile(os.path.join(self._top, "annotations", f"instances_{split}.json")):
            return None
        return CocoSource(root=self._top, split=split, test_split=None, min_size=self.min_size)


def _read(file: str) -> dict[str, np.ndarray]:
    """Paths, labels and classes of an annotation file."""
    content = _content(file)
    try:
        categories = sorted((entry["id"], str(entry["name"])) for entry in content["categories"])
        images = [(entry["id"], os.fsencode(entry["file_name"])) for entry in content["images"]]
        objects = [(entry["image_id"], entry["category_id"]) for entry in content["annotations"]]
    except (KeyError, TypeError, IndexError) as error:
        _refuse(file, f"it is not laid out as COCO's instances_*.json ({type(error).__name__}: {error})")
    if not images or not categories:
        _refuse(file, f"it has {len(images)} images and {len(categories)} categories, expected some of both")
    if len(dict(images)) < len(images) or len({*dict(categories).values()}) < len(categories):
        _refuse(file, "an id of an image or category, or the name of a category, stands there twice")
    paths, classes = PathTable(path for _, path in images), PathTable(name.encode() for _, name in categories)
    labels = _labels(file, [image for image, _ in images], [category for category, _ in categories], objects)
    return paths.for_cache("paths") | classes.for_cache("classes") | {"labels": labels}


def _content(file: str) -> Any:
    try:
        with open(file, "rb") as stream:
            return json.load(stream)
    except (OSError, ValueError) as error:
        _refuse(file, f"can't be read as JSON: {error}")


def _labels(
    file: str, images: list[int], categories: list[int], objects: list[tuple[int, int]]
) -> Bool[np.ndarray, "N C"]:
    """Which image has an object of which category, from (image, category) of every object."""
    rows = {image: row for row, image in enumerate(images)}
    columns = {category: column for column, category in enumerate(categories)}
    labels = np.zeros((len(images), len(categories)), bool)
    for image, category in objects:
        if image not in rows:
            _refuse(file, f"there is an object in image {image}, which is none of the {len(rows)} images")
        if category not in columns:
            _refuse(file, f"image {image} has an object of category {category}, which is none of the {len(columns)}")
        labels[rows[image], columns[category]] = True
    return labels


def _refuse(file: str, what: str) -> NoReturn:
    raise UserError(f"data.root: {printable(os.fsencode(file))}: {what}")
