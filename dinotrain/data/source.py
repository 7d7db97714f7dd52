"""What the input pipeline asks of a set of images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8


class BrokenImage(Exception):
    """An image that can't be read; the message is the reason, on one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@runtime_checkable
class Source(Protocol):
    """Images that are read by number. Cheap to fork: what is large is held in few arrays."""

    @property
    def labels(self) -> Int64[np.ndarray, "N"] | None:
        """Class number of every image; None when the images have no labels."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, by number; None when there are no labels or no names."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture in RGB, upright, in memory of its own. Raises `BrokenImage` when it can't be read."""
        ...

    def name(self, index: int) -> str:
        """Printable name, on one line, that tells the user which image this is."""
        ...

    def test(self) -> Source | None:
        """The source's own test split, None when it has none."""
        ...

    def fingerprint(self) -> str:
        """Text that differs for another set or order of images, but not when the set only moved elsewhere."""
        ...
