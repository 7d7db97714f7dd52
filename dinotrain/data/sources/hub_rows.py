"""Images in a table of the Hugging Face `datasets` library."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import read_file
from dinotrain.data.source import Source
from dinotrain.data.sources.class_column import as_labels, class_numbers
from dinotrain.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_SAMPLES = 64


class HubRows(Source):
    """The images of a split, which lies in memory-mapped files.

    Args:
        dataset: the split.
        split: its name.
        column: name of the column of images.
        label_column: name of the column of labels; None for no labels. A column `label` need not be there.
        min_size: images with a shorter side than this many pixels count as broken.
        classes: class names in the order of their numbers, where the set names none; others follow.

    Raises:
        UserError: there is no such column, or it holds something else.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        split: str,
        column: str = "image",
        label_column: str | None = "label",
        min_size: int = 1,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.min_size = min_size
        self._split = split
        self._rows = _images(dataset, column)
        if not len(self._rows):
            raise UserError(f"data.split: split {split!r} has no rows")
        self.labels, self.classes = _labels(dataset, label_column, classes)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes:
        """The bytes of an image; raises `BrokenImage` where there are none, or its file can't be read."""
        data, path = self._cell(index)
        if data is None and path:
            return read_file(path)
        if data is None:
            raise BrokenImage("null: no image in this row")
        return data

    def name(self, index: int) -> str:
        """Split and number of the row: `train:17`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        return f"{self._split}:{index}"

    def fingerprint(self) -> str:
        """Number of images, labels, and the bytes of some images (names of files where it has no bytes)."""
        digest = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(_SAMPLES, len(self))).astype(int).tolist():
            data, path = self._cell(index)
            digest.update(hashlib.sha256(data or os.path.basename(path or "").encode()).digest())
        return f"hf:{len(self)}:{digest.hexdigest()[:16]}"

    def _cell(self, index: int) -> tuple[bytes | None, str | None]:
        """Bytes and path of a row, as far as it has them."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        row: Any = self._rows[index]
        cell = row.column(0)[0].as_py()
        return (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)


def _images(dataset: Dataset, column: str) -> Dataset:
    """The column of images alone, as it is stored."""
    from datasets import Image, Value

    feature = dataset.features.get(column)
    if feature is None:
        raise UserError(f"data.column: no column {column!r}, the set has: {', '.join(dataset.features)}")
    if isinstance(feature, Image):
        dataset = dataset.cast_column(column, Image(decode=False))
    elif not (isinstance(feature, Value) and "binary" in feature.dtype) and not _is_image_struct(feature):
        raise UserError(f"data.column: column {column!r} holds {' '.join(str(feature).split())}, expected images")
    return dataset.select_columns([column]).with_format("arrow")


def _is_image_struct(feature: Any) -> bool:
    return isinstance(feature, dict) and "binary" in getattr(feature.get("bytes"), "dtype", "")


def _labels(
    dataset: Dataset, column: str | None, known: Sequence[str] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if column is None or column not in dataset.features:
        if column not in (None, "label"):
            raise UserError(
                f"data.label_column: no column {column!r}, the set has: {', '.join(dataset.features)} "
                "(null for no labels)"
            )
        return None, None
    values: Any = dataset.select_columns([column]).with_format("arrow")[:]
    names = getattr(dataset.features[column], "names", None)
    return class_numbers([as_labels(values.column(0), column)], names, known)
