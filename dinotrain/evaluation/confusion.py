"""Which classes are taken for which: a matrix where there are few, the most confused pairs where there are many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from dinotrain.evaluation.outcome import Matrix, Table

_MOST_IN_MATRIX = 40
_PAIRS = 30


def confusion(
    labels: Int64[np.ndarray, "m"], predicted: Int64[np.ndarray, "m"], classes: Sequence[str]
) -> tuple[tuple[Matrix, ...], tuple[Table, ...]]:
    """A matrix in percent of the images of each true class (rows) for up to 40 classes, else a table of pairs.

    Args:
        labels: true class number of each image.
        predicted: class number it was given.
        classes: name of each class, by number.
    """
    count = len(classes)
    table = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    if count <= _MOST_IN_MATRIX:
        return (_matrix(table, tuple(classes)),), ()
    return (), (_pairs(table, classes),)


def _matrix(table: Int64[np.ndarray, "C C"], classes: tuple[str, ...]) -> Matrix:
    shares = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return Matrix(
        title="Confusion",
        note="Of the test images of each class (row), the share that was given each class (column).",
        rows=classes,
        columns=classes,
        values=tuple(map(tuple, shares.tolist())),
        unit="%",
    )


def _pairs(table: Int64[np.ndarray, "C C"], classes: Sequence[str]) -> Table:
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    # Stable, so that ties stand in the order of the classes wherever this runs.
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    totals, rows = table.sum(axis=1), []
    for true, given in zip(*(part.tolist() for part in np.unravel_index(order, wrong.shape))):
        if wrong[true, given]:
            number, total = int(wrong[true, given]), int(totals[true])
            rows.append((classes[true], classes[given], f"{number} of {total}", f"{100 * number / total:.1f}"))
    return Table(
        title="Most confused classes",
        note=f"The {len(rows)} pairs that are confused most often.",
        columns=("class", "taken for", "images", "% of the class"),
        rows=tuple(rows),
    )
