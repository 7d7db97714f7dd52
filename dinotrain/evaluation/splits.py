"""Which images are learned from, and which are measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from dinotrain.data.broken import BrokenImage
from dinotrain.data.dense import DenseSource
from dinotrain.data.source import Source
from dinotrain.errors import UserError

SAMPLED = 64
"""Images whose content tells a split from one with the same names."""


@dataclass(frozen=True)
class Split:
    """Some images of a source."""

    source: Source
    indices: np.ndarray
    """[n] numbers of its images in the source."""
    name: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Int64[np.ndarray, "n"]:
        """Class numbers.

        Raises:
            UserError: if the images have none.
        """
        if self.source.labels is None:
            raise UserError(f"data: the {self.name} images have no labels; expected one sub-folder of images per class")
        return self.source.labels[self.indices]

    @cached_property
    def identity(self) -> str:
        """Text that differs for other images: also where names and labels are those of another set.

        Made of the source's fingerprint, the numbers of the images and the content of some of them.
        """
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.source.min_size}".encode())
        digest.update(np.ascontiguousarray(self.indices, np.int64).data)
        for row in np.unique(np.linspace(0, len(self) - 1, min(SAMPLED, len(self))).round().astype(int)):
            digest.update(_content(self.source, int(self.indices[row])))
        return digest.hexdigest()[:32]

    def part(self, rows: np.ndarray, name: str | None = None) -> Split:
        """The images in these rows of the split."""
        return Split(self.source, self.indices[rows], name or self.name)

    def drawn(self, most: int | None, seed: int) -> Split:
        """At most so many images, drawn at random, in their order."""
        if most is None or most >= len(self):
            return self
        return self.part(np.sort(np.random.default_rng([seed, 1]).permutation(len(self))[:most]))


def _content(source: Source, index: int) -> bytes:
    """Of an image, with its mask or depth where it has one."""
    try:
        data = source.read(index)
        content = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        if isinstance(source, DenseSource):
            targets = [source.pair(index, target)[1] for target in source.targets]
            content += b"".join(np.ascontiguousarray(target).tobytes() for target in targets)
    except BrokenImage as error:
        return str(error).encode()
    return content


def whole(source: Source, name: str) -> Split:
    """All images of a source."""
    return Split(source, np.arange(len(source)), name)


def held_out(
    labels: Int64[np.ndarray, "n"],
    share: float,
    seed: int,
    classes: tuple[str, ...] | None = None,
    hint: str = "validation_root=...",
) -> tuple[Int64[np.ndarray, "fit"], Int64[np.ndarray, "held"]]:
    """Rows to learn from and rows to choose by: the share of every class, at least one image, set apart.

    Depends on labels, share and seed alone.

    Raises:
        UserError: if a class has a single image, which can't be on both sides.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    present, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    if (counts < 2).any():
        number = int(present[counts < 2][0])
        name = classes[number] if classes else f"number {number}"
        more = f" (and {(counts < 2).sum() - 1} more)" if (counts < 2).sum() > 1 else ""
        raise UserError(
            f"data: class {name}{more} has a single training image, so none can be held out; expected at least 2 of "
            f"each class, or {hint}"
        )
    take = np.maximum(np.round(counts * share).astype(int), 1)
    # The position of every image within its class.
    place = np.arange(len(labels)) - np.repeat(starts, counts)
    held = place < np.repeat(np.minimum(take, counts - 1), counts)
    return np.sort(by_class[~held]), np.sort(by_class[held])


def random_part(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same without classes: rows to learn from, and at least one row to measure on.

    Raises:
        UserError: if there are fewer than two images.
    """
    if count < 2:
        raise UserError(f"data: got {count} images, expected at least 2, so that some can be held out")
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(round(count * share), 1), count - 1)
    return np.sort(order[held:]), np.sort(order[:held])
