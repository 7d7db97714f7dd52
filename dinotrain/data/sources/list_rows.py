"""Rows of a list of images, collected to arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from dinotrain.data.paths import PathTable, printable
from dinotrain.errors import UserError

NO_LABEL = -1


class Rows(NamedTuple):
    """Some rows of a list."""

    block: UInt8[np.ndarray, "bytes"]
    """Their paths one after another."""
    sizes: Int64[np.ndarray, "n"]
    """Bytes of each path."""
    labels: Int64[np.ndarray, "n"] | None
    """Number of each row's label, NO_LABEL where it has none; None where no row has one."""


def numbered(names: Sequence[bytes | None], numbers: dict[bytes, int]) -> Int64[np.ndarray, "n"]:
    """Number of each label; those that are not in `numbers` yet are added to it."""
    found = {name: numbers.setdefault(name, len(numbers)) if name else NO_LABEL for name in dict.fromkeys(names)}
    return np.fromiter(map(found.__getitem__, names), np.int64, len(names))


def collect(file: str, rows: Iterable[Rows], numbers: Mapping[bytes, int]) -> dict[str, np.ndarray]:
    """Paths, labels and class names as arrays to be cached.

    Args:
        file: name of the list, for messages.
        rows: all of them, from a reader that adds to `numbers`.
        numbers: number of each label that came up. They are sorted by name, or by value where all are whole numbers.

    Raises:
        UserError: labels on some rows only, or a path that no file can have.
    """
    parts = list(rows)
    block = np.concatenate([np.zeros(0, np.uint8), *(part.block for part in parts)])
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(part.sizes for part in parts)]))
    paths = PathTable.of_arrays(block, ends)
    if any(b"\0" in part.block.tobytes() for part in parts):
        row = np.searchsorted(ends, np.flatnonzero(block == 0)[0], side="right")
        raise UserError(f"data.root: {file} is no list of paths: there is a zero byte in path {row}")
    arrays = paths.for_cache("paths") | {"digest": np.frombuffer(paths.digest().encode(), np.uint8)}
    arrays["remote"] = np.array([any(b"://" in part.block.tobytes() for part in parts)])
    if not numbers:
        return arrays
    labels = np.concatenate([_labels(part) for part in parts])
    if len(bare := np.flatnonzero(labels == NO_LABEL)):
        example = printable(paths[int(bare[0])])
        raise UserError(
            f"data.root: {file} has labels, but none for {example}; expected all or none (data=multilabel_csv: the "
            "separator alone, where an image has none)"
        )
    order, names = _sorted_classes(numbers)
    return arrays | {"labels": order[labels]} | names.for_cache("classes")


def _labels(rows: Rows) -> Int64[np.ndarray, "n"]:
    return np.full(len(rows.sizes), NO_LABEL) if rows.labels is None else rows.labels


def _sorted_classes(numbers: Mapping[bytes, int]) -> tuple[Int64[np.ndarray, "C"], PathTable]:
    """New number of each old one, and the class names in the new order."""
    whole = all(name.isdigit() for name in numbers)
    names = sorted(numbers, key=lambda name: (int(name) if whole else 0, name))
    new = np.empty(len(names), np.int64)
    new[[numbers[name] for name in names]] = np.arange(len(names))
    return new, PathTable(names)
