"""Several sets of images in given shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from dinotrain.data.batch import Skipped
from dinotrain.data.images import Admits
from dinotrain.data.order import Mixed, Order
from dinotrain.data.source import Source


class MixSource(Source):
    """Images of several sets, which training sees in given shares, whatever their sizes.

    Image i is the i-th of all sets one after another. Each set keeps its own order and goes through its own epochs. A
    broken image is replaced by another of its set. There are no labels: the classes of the sets are not the same.

    Args:
        sources: the sets.
        weights: share of each of them, in any unit.
        names: what the names of their images start with.
    """

    def __init__(self, *, sources: Sequence[Source], weights: Sequence[float], names: Sequence[str]) -> None:
        if not sources:
            raise ValueError("sources: got none, must be at least one")
        if len(names) != len(sources) or len(set(names)) < len(names):
            raise ValueError(f"names: got {list(names)}, must be {len(sources)} different names")
        self._sources, self._names = tuple(sources), tuple(names)
        lengths = [len(source) for source in sources]
        self._order = Mixed([source.order() for source in sources], lengths, weights)
        self._shares = [weight / sum(weights) for weight in weights]
        self._ends = np.cumsum(lengths)
        self.min_size = min(source.min_size for source in sources)
        self.left_out = tuple(
            Skipped(f"{name}/{part.name}", part.reason)
            for name, source in zip(names, sources, strict=True)
            for part in source.left_out
        )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> bytes | UInt8[np.ndarray, "H W 3"]:
        """What the image's own set returns; raises `BrokenImage` where that does."""
        number, own = self._place(index)
        return self._sources[number].read(own)

    def image(self, index: int, admits: Admits | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """As the image's own set has it; raises `BrokenImage` where that does."""
        number, own = self._place(index)
        return self._sources[number].image(own, admits)

    def name(self, index: int) -> str:
        """Name of the set, a slash, and the name the image has there."""
        number, own = self._place(index)
        return f"{self._names[number]}/{self._sources[number].name(own)}"

    def fingerprint(self) -> str:
        parts = [f"{source.fingerprint()}*{part:.9g}" for source, part in zip(self._sources, self._shares, strict=True)]
        return f"mix:{len(self)}:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}"

    def order(self) -> Order:
        return self._order

    def share(self) -> None:
        for source in self._sources:
            source.share()

    def fetch(self, indices: Sequence[int]) -> None:
        own: dict[int, list[int]] = {}
        for number, index in map(self._place, indices):
            own.setdefault(number, []).append(index)
        for number, chosen in own.items():
            self._sources[number].fetch(chosen)

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the set, and of the image in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index - self._ends[number] + len(self._sources[number]))
