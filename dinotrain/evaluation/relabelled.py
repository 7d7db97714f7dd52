"""Labels of one set of images in the numbers of another's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt8

from dinotrain.data.images import Admits
from dinotrain.data.source import Source
from dinotrain.errors import UserError


class Relabelled(Source):
    """The images of a source with other class numbers."""

    def __init__(self, source: Source, labels: Int64[np.ndarray, "N"], classes: tuple[str, ...]) -> None:
        self.source, self.labels, self.classes = source, labels, classes
        self.min_size, self.left_out = source.min_size, source.left_out

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> bytes | UInt8[np.ndarray, "H W 3"]:
        return self.source.read(index)

    def image(self, index: int, admits: Admits | None = None) -> UInt8[np.ndarray, "H W 3"]:
        return self.source.image(index, admits)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def fetch(self, indices: Sequence[int]) -> None:
        self.source.fetch(indices)

    def share(self) -> None:
        self.source.share()


def in_classes_of(train: Source, other: Source, what: str) -> Source:
    """The other images with the class numbers of the training images, by the classes' names where they have any.

    Args:
        what: the other images, in words.

    Raises:
        UserError: if they have a class that the training images lack, or no labels.
    """
    assert train.labels is not None
    if other.labels is None:
        raise UserError(f"{what}: these images have no labels, but those in data.root have")
    if train.classes is None or other.classes is None or train.classes == other.classes:
        strange = np.setdiff1d(other.labels, train.labels)
        if len(strange):
            raise UserError(f"{what}: class {_named(int(strange[0]), other)} is not among the training images")
        return other
    numbers = {name: number for number, name in enumerate(train.classes)}
    present = np.unique(other.labels)
    for number in present:
        if other.classes[number] not in numbers:
            known = ", ".join(train.classes[:5]) + (" ..." if len(train.classes) > 5 else "")
            raise UserError(f"{what}: class {other.classes[number]!r} is not among the training images' ({known})")
    table = np.zeros(int(present.max()) + 1, np.int64)
    table[present] = [numbers[other.classes[number]] for number in present]
    return Relabelled(other, table[other.labels], train.classes)


def _named(number: int, source: Source) -> str:
    return repr(source.classes[number]) if source.classes else f"number {number}"
