"""What the input pipeline asks of a set of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from dinotrain.data.batch import Skipped
from dinotrain.data.images import Admits, decode
from dinotrain.data.order import Order, Shuffled


class Source(ABC):
    """Images that are read by number. Cheap to fork: what is large is held in few arrays."""

    labels: Int64[np.ndarray, "N"] | None = None
    """Class number of every image; None when the images have no labels."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by number; None when there are no labels or no names."""
    min_size: int = 1
    """Images with a shorter side than this many pixels count as broken."""
    left_out: tuple[Skipped, ...] = ()
    """Parts of the set that could not be listed, and are not among its images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes | UInt8[np.ndarray, "H W 3"]:
        """The bytes of an image file; or RGB pixels in memory of their own, where the source holds these.

        Raises:
            BrokenImage: they can't be had.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Printable name, on one line, that tells the user which image this is."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Text that differs for another set or order of images, but not when the set only moved elsewhere."""

    def image(self, index: int, admits: Admits | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The picture in RGB, upright, in memory of its own; at half its size if `admits` accepts that.

        Raises:
            BrokenImage: it can't be read.
        """
        data = self.read(index)
        if isinstance(data, bytes):
            return decode(data, min_size=self.min_size, admits=admits)
        return data

    def test(self) -> Source | None:
        """The source's own test split, None when it has none."""
        return None

    def order(self) -> Order:
        """Which image stands at which position of training: by default every image of the set may follow any other."""
        return Shuffled(len(self))

    def share(self) -> None:  # noqa: B027
        """Told before workers are forked: what each of them would else read into memory of its own is read now."""

    def fetch(self, indices: Sequence[int]) -> None:  # noqa: B027
        """Told before these images are read, one after another, in this process: a remote one gets them at once."""
