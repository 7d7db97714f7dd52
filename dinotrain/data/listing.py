"""A text file that lists image files."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from os import PathLike

import numpy as np
from jaxtyping import Int64

from dinotrain.data.images import read_file
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.source import Source
from dinotrain.errors import UserError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ListSource(Source):
    """The image files named in a text file: one path a line, then a tab and its label, if there are labels.

    Empty lines are left out. The files are not looked for until they are read: a missing one is a broken image.
    The classes are the different labels, sorted by name, or by value where all are whole numbers.

    Args:
        root: the text file.
        base: folder that relative paths start from, by default the one that holds the text file.
        min_size: images with a shorter side than this many pixels count as broken.

    Raises:
        UserError: no such file, no path in it, or labels on some of its lines only.
    """

    def __init__(
        self, *, root: str | PathLike[str], base: str | PathLike[str] | None = None, min_size: int = 1
    ) -> None:
        if min_size < 1:
            raise ValueError(f"min_size: got {min_size}, must be at least 1")
        self.min_size = min_size
        file = os.path.abspath(os.path.expanduser(os.fsencode(root)))
        self._base = os.path.dirname(file) if base is None else os.path.expanduser(os.fsencode(base))
        numbers: dict[bytes, int] = {}
        labels = array("q")
        self._paths = PathTable(_read(file, numbers, labels))
        if not len(self._paths):
            raise UserError(f"data.root: no path in {printable(file)}, expected one image path a line")
        if numbers and -1 in labels:
            example = printable(self._paths[labels.index(-1)])
            raise UserError(f"data.root: {printable(file)} has labels, but none for {example}; expected all or none")
        self.labels, self.classes = _sorted_classes(numbers, np.array(labels, np.int64))

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when its file is missing or can't be read."""
        return read_file(os.path.join(self._base, self._paths[index]))

    def name(self, index: int) -> str:
        """The path as it is listed."""
        return printable(self._paths[index])

    def fingerprint(self) -> str:
        return f"list:{len(self)}:{self._paths.digest()}"


def _read(file: bytes, numbers: dict[bytes, int], labels: array[int]) -> Iterator[bytes]:
    """The paths of a list; adds each one's label number (-1 for none) to `labels`, new labels to `numbers`."""
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines):
                line = line.rstrip(b"\r\n")
                path, separator, label = (line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line).partition(b"\t")
                if path.strip():
                    labels.append(numbers.setdefault(label.strip(), len(numbers)) if separator else -1)
                    yield path
    except OSError as error:
        raise UserError(
            f"data.root: can't read {printable(file)}: {error.strerror}; expected a text file of image paths"
        ) from error


def _sorted_classes(
    numbers: dict[bytes, int], labels: Int64[np.ndarray, "N"]
) -> tuple[Int64[np.ndarray, "N"] | None, tuple[str, ...] | None]:
    """Numbers in order of appearance -> in order of the sorted names."""
    if not numbers:
        return None, None
    whole = all(name.isdigit() for name in numbers)
    names = sorted(numbers, key=lambda name: (int(name) if whole else 0, name))
    new = np.empty(len(names), np.int64)
    new[[numbers[name] for name in names]] = np.arange(len(names))
    return new[labels], tuple(printable(name) for name in names)
