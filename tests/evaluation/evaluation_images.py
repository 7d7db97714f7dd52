"""Small images for tests of evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import Admits
from dinotrain.data.source import Source


class Drawn(Source):
    """Random pictures of 20 x 24 px, some of them broken; remembers how often each was decoded."""

    def __init__(
        self,
        count: int,
        *,
        labels: Sequence[int] | None = None,
        classes: tuple[str, ...] | None = None,
        broken: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.labels = None if labels is None else np.array(labels, np.int64)
        self.classes, self.broken, self.seed, self.reads = classes, tuple(broken), seed, np.zeros(count, int)

    def __len__(self) -> int:
        return len(self.reads)

    def read(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise BrokenImage("broken on purpose")
        return np.random.default_rng([self.seed, index]).integers(0, 256, (20, 24, 3), dtype=np.uint8)

    def image(self, index: int, admits: Admits | None = None) -> np.ndarray:
        self.reads[index] += 1
        return super().image(index, admits)

    def name(self, index: int) -> str:
        return f"drawn/{index}"

    def fingerprint(self) -> str:
        return f"drawn {len(self)}"
