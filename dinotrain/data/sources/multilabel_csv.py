"""A table of image files with several labels each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike

import numpy as np
from jaxtyping import Bool

from dinotrain.data.sources.listing import ListSource
from dinotrain.data.sources.multilabel import label_digest
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError


class MultiLabelCsvSource(ListSource):
    """The image files named in a CSV or Parquet table, with a column that holds all labels of an image in one text.

    Everything else is as `ListSource` does it: the images may be remote, and are not looked for until they are read.
    Of an image without any label the column holds the separator alone.

    Args:
        root: the table, a path or a URL, with one row per image.
        test_root: another one with the same columns, for `test()`; it may lack some of the classes. None for none.
        base: folder or URL that relative paths start from, by default the one that holds the table.
        path_column: column with the paths.
        label_column: column with the labels.
        separator: between the labels of an image, such as ";" or "|"; null for white space.
        classes: names of the classes in the order of their numbers; by default all labels, sorted by name, or by
            value where all are whole numbers.
        min_size: images with a shorter side than this many pixels count as broken.
        storage: how remote files are read.

    Raises:
        UserError: no such table or column, a row without labels, or a label that is none of `classes`.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        test_root: str | PathLike[str] | None = None,
        base: str | PathLike[str] | None = None,
        path_column: str = "path",
        label_column: str = "labels",
        separator: str | None = ";",
        classes: Sequence[str] | None = None,
        min_size: int = 1,
        storage: Storage | None = None,
    ) -> None:
        if separator == "":
            raise ValueError("separator: got '', expected a text such as ';', or null for white space")
        super().__init__(
            root=root,
            base=base,
            path_column=path_column,
            label_column=label_column,
            min_size=min_size,
            storage=storage,
        )
        if self.labels is None or self.classes is None:
            raise UserError(f"data.root: {root} has no labels in the column {label_column}")
        self._test = None if test_root is None else (test_root, base, path_column, label_column, separator)
        table, self.classes = _split(self.classes, separator, classes, str(root))
        self.multi_labels: Bool[np.ndarray, "N C"] = table[self.labels]
        """Which classes each image has."""
        self.labels = None

    def test(self) -> MultiLabelCsvSource | None:
        """The other table's images; its classes have the numbers they have here."""
        if self._test is None:
            return None
        root, base, path_column, label_column, separator = self._test
        return MultiLabelCsvSource(
            root=root,
            base=base,
            path_column=path_column,
            label_column=label_column,
            separator=separator,
            classes=self.classes,
            min_size=self.min_size,
            storage=self._storage,
        )

    def fingerprint(self) -> str:
        return f"multilabel_{super().fingerprint()}:{label_digest(self.multi_labels, self.classes or ())}"


def _split(
    texts: Sequence[str], separator: str | None, known: Sequence[str] | None, file: str
) -> tuple[Bool[np.ndarray, "T C"], tuple[str, ...]]:
    """Which classes each of some texts of labels names, and the names of all."""
    labels = [[label.strip() for label in text.split(separator) if label.strip()] for text in texts]
    classes = _sorted({label for some in labels for label in some}) if known is None else tuple(known)
    numbers = {name: number for number, name in enumerate(classes)}
    table = np.zeros((len(texts), len(classes)), bool)
    for row, some in zip(table, labels):
        for label in some:
            if label not in numbers:
                raise UserError(f"data.root: {file}: label {label!r} is none of the {len(classes)} classes")
            row[numbers[label]] = True
    return table, classes


def _sorted(labels: Iterable[str]) -> tuple[str, ...]:
    names = sorted(labels)
    return tuple(sorted(names, key=int)) if all(name.isdecimal() for name in names) else tuple(names)
