"""All pieces together, as the rows of one table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from dinotrain.data.batch import Skipped
from dinotrain.data.source import Source
from dinotrain.embedding.content import Column
from dinotrain.embedding.parts import Parts


class Collected:
    """The rows of all images that could be read, in their order; features are read from files, a piece at a time.

    Args:
        parts: with all pieces.
        source: of the images.
        columns: that the pieces have.
        dtype: of their numbers.
    """

    def __init__(self, parts: Parts, source: Source, columns: tuple[Column, ...], dtype: np.dtype) -> None:
        self.parts, self.source, self.columns, self.dtype = parts, source, columns, np.dtype(dtype)
        readable, self._reasons = [np.zeros(0, bool)], []
        for piece in self.pieces():
            readable.append(piece.readable)
            self._reasons += piece.reasons
        self._readable = np.concatenate(readable)

    @cached_property
    def indices(self) -> Int64[np.ndarray, "n"]:
        """The numbers of the images in the source."""
        return np.flatnonzero(self._readable)

    @cached_property
    def skipped(self) -> list[tuple[int, Skipped]]:
        """The images that are in no row, by number."""
        numbers = np.flatnonzero(~self._readable).tolist()
        return [(index, Skipped(self.name(index), why)) for index, why in zip(numbers, self._reasons, strict=True)]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Int64[np.ndarray, "n"] | None:
        """Class numbers, where the images have any."""
        labels = self.source.labels
        return None if labels is None else np.asarray(labels, np.int64)[self.indices]

    def name(self, index: int) -> str:
        """Of an image of the source, as valid text on one line."""
        return self.source.name(index).encode("utf-8", "backslashreplace").decode()

    def names(self) -> Iterator[str]:
        """Of the rows."""
        return (self.name(int(index)) for index in self.indices)

    def pieces(self, *columns: str) -> Iterator:
        """The pieces, with these columns."""
        return (self.parts.read(number, columns) for number in range(self.parts.plan.pieces))

    def rows(self, column: str) -> Iterator[np.ndarray]:
        """A column piece by piece."""
        return (piece.columns[column] for piece in self.pieces(column))
