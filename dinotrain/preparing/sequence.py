"""In which order the images of a source are converted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from dinotrain.data.order import Mixed, Shuffled
from dinotrain.data.source import Source

_BLOCK = 2**12  # places that are worked out together


class ImageSequence:
    """Every image of a source once; the order is a pure function of the seed, and takes no memory.

    Args:
        source: the images.
        shuffle: in the first epoch's order of training, where images of a class don't stand together and what is read
            within a while lies in few files; otherwise in the source's own order.
        seed: of the shuffle.
        limit: take only so many of them, the first in this order; None for all.
    """

    def __init__(self, source: Source, *, shuffle: bool, seed: int, limit: int | None) -> None:
        order = source.order()
        # In a mixture some images come up again before others have been there.
        self._order = Shuffled(len(source)) if isinstance(order, Mixed) else order
        self._shuffle, self._seed = shuffle, seed
        self._length = len(source) if limit is None else min(limit, len(source))

    def __len__(self) -> int:
        return self._length

    def indices(self, begin: int) -> Iterator[int]:
        """Numbers in the source of all images from place `begin` on."""
        for first in range(begin, len(self), _BLOCK):
            yield from self.at(np.arange(first, min(first + _BLOCK, len(self)))).tolist()

    def at(self, places: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """Numbers in the source of the images at these places."""
        return self._order(places, self._seed) if self._shuffle else places
