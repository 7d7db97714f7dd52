"""Pictures of one colour per class, with noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source


class ColouredPictures(Source):
    """16 x 20 px; those numbered in `broken` can't be read."""

    def __init__(self, count: int, classes: int = 4, *, broken: Sequence[int] = ()) -> None:
        self.labels: np.ndarray = np.arange(count) % classes
        self.classes = tuple(f"class{number}" for number in range(classes))
        self.count, self.broken = count, frozenset(broken)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise BrokenImage("broken on purpose")
        color = np.random.default_rng([7, int(self.labels[index])]).integers(32, 224, 3)
        noise = np.random.default_rng(index).integers(-32, 32, (16, 20, 3))
        return (color + noise).astype(np.uint8)

    def name(self, index: int) -> str:
        return f"pictures/{index:04d}"

    def fingerprint(self) -> str:
        return f"coloured pictures:{self.count}"
