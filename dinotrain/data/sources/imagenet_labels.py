"""The label files of ImageNet's validation images."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from dinotrain.data.paths import printable
from dinotrain.errors import UserError

WNID = re.compile(r"n\d{8}")
"""WordNet's number of a noun, which names a class."""


class NoScipy(UserError):
    """A file of MATLAB can't be read without scipy."""


def read_labels(
    file: bytes, paths: Sequence[bytes], wnids: Sequence[str], ranks: Sequence[str]
) -> tuple[Int64[np.ndarray, "N"], tuple[str, ...]]:
    """Class number of each validation image, and the wnids by number.

    Args:
        file: a table of file names and wnids, or numbers; or, a number on each line, the development kit's ground
            truth of all images in the order of their names.
        paths: the images.
        wnids: those of the classes that have numbers already; others follow.
        ranks: wnids by the numbers that a table may hold.

    Raises:
        UserError: an image has no label, or a label is none.
        NoScipy: the ground truth is of the development kit.
    """
    rows = _rows(file)
    if rows and all(len(row) == 1 and row[0].isdigit() for row in rows):
        truth = _ground_truth(file, [int(row[0]) for row in rows], len(paths))
        by_stem = dict(zip(sorted(map(_stem, paths)), truth))
    else:
        by_stem = {_stem(os.fsencode(row[0])): _wnid(file, row[1], ranks) for row in rows if len(row) > 1}
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    labels = np.empty(len(paths), np.int64)
    for index, path in enumerate(paths):
        if (wnid := by_stem.get(_stem(path))) is None:
            raise UserError(f"data.val_labels: {printable(file)} has no label for {printable(path)}")
        labels[index] = numbers.setdefault(wnid, len(numbers))
    return labels, tuple(numbers)


def _rows(file: bytes) -> list[list[str]]:
    """The first two words of each line; of a table with commas the first of each of the first two columns."""
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            if not file.lower().endswith(b".csv"):
                return [line.split()[:2] for line in lines if line.strip()]
            cells = [row[:2] for row in csv.reader(lines) if row][1:]
    except (OSError, csv.Error) as error:
        raise UserError(f"data.val_labels: can't read {printable(file)}: {error}") from error
    return [[cell.split()[0] for cell in row if cell.strip()] for row in cells]


def _stem(path: bytes) -> bytes:
    return os.path.splitext(os.path.basename(path))[0]


def _wnid(file: bytes, label: str, ranks: Sequence[str]) -> str:
    """A label that is a wnid, or the rank of one."""
    if WNID.fullmatch(label):
        return label
    if not label.isdigit() or int(label) >= len(ranks):
        raise UserError(
            f"data.val_labels: {printable(file)} has the class {label}, expected a wnid such as n01440764, or its rank "
            f"among the {len(ranks)} wnids, 0..{len(ranks) - 1}"
        )
    return ranks[int(label)]


def _ground_truth(file: bytes, ids: list[int], images: int) -> list[str]:
    """The wnids of the development kit's own numbers of classes."""
    if len(ids) != images:
        raise UserError(f"data.val_labels: {printable(file)} has {len(ids)} lines for {images} images in val")
    meta = os.path.join(os.path.dirname(file), b"meta.mat")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise NoScipy(f"data.val_labels: reading {printable(meta)} needs scipy: pip install scipy") from error
    try:
        synsets = np.atleast_1d(loadmat(os.fsdecode(meta), squeeze_me=True)["synsets"])
        wnids = dict(zip(map(int, synsets["ILSVRC2012_ID"]), map(str, synsets["WNID"])))
        return [wnids[number] for number in ids]
    except OSError as error:
        raise UserError(
            f"data.val_labels: {printable(file)} goes with meta.mat, which is not beside it ({error.strerror})"
        ) from error
    except KeyError as error:
        raise UserError(f"data.val_labels: {printable(meta)} has no {error} of {printable(file)}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"data.val_labels: can't read {printable(meta)}: {' '.join(str(error).split())}") from error
