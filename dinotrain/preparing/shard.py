"""A shard in the making."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinotrain.data.paths import PathTable
from dinotrain.data.source import Source
from dinotrain.data.sources.tar_index import TarIndex, index_name
from dinotrain.preparing.conversion import Converted
from dinotrain.preparing.duplicates import Match
from dinotrain.preparing.record import DUPLICATE, IMAGE, ShardRecord
from dinotrain.preparing.tar_writer import Member, TarWriter, finished_length

PATTERN = "shard-{:06d}.tar"
_ROWS = 1024  # to begin with


class Shard:
    """Tar file, index and record of some images that follow one another.

    A sample has the members `KEY.EXTENSION`, the image, and where it has a class `KEY.cls`, its number as text; KEY is
    a running number over all shards. The original names are in the index.

    Args:
        source: where the names and labels come from.
        path: of the tar file; the index gets its name from it.
        begin: place in the sequence of images of the first one.
        number: running number of the first image that is kept.
        labels: whether to write class numbers.
    """

    def __init__(self, source: Source, path: Path, *, begin: int, number: int, labels: bool) -> None:
        self._source, self._path, self._number = source, path, number
        self.begin = begin
        self._labels = source.labels if labels else None
        self._tar: TarWriter | None = None
        self._images = np.empty(_ROWS, IMAGE)
        self._count = 0
        self._duplicates: list[tuple] = []
        self._failures: list[tuple[int, str]] = []
        self._bytes_in = self._bytes_kept = 0

    def __len__(self) -> int:
        return self._count

    def length_with(self, image: Converted) -> int:
        """Bytes of the finished tar file if one more image is added."""
        position = self._tar.position if self._tar is not None else 0
        return finished_length(position + sum(member.space for member in self._members(image)))

    def add(self, image: Converted) -> None:
        """Write an image."""
        if self._tar is None:
            self._tar = TarWriter(self._path)
        offset = 0
        for member in self._members(image):
            begin = self._tar.add(member)
            offset = begin if member.data is image.data else offset
        self._bytes_in += image.bytes_in
        self._bytes_kept += len(image.data)
        if self._count == len(self._images):
            self._images = np.concatenate([self._images, np.empty_like(self._images)])
        self._images[self._count] = _row(image, offset)
        self._count += 1

    def drop(self, image: Converted, match: Match) -> None:
        """Take note of a duplicate."""
        self._bytes_in += image.bytes_in
        self._duplicates.append((image.index, *match))

    def fail(self, image: Converted) -> None:
        """Take note of an image that can't be read."""
        self._failures.append((image.index, str(image.reason)))

    def finish(self, end: int) -> ShardRecord:
        """Complete the tar and its index. `end`: place after the last image."""
        tar_bytes = 0
        if self._tar is not None:
            tar_bytes = self._tar.finish()
            self._index(tar_bytes).save(index_path(self._path))
        return ShardRecord(
            begin=self.begin,
            end=end,
            images=self._images[: self._count].copy(),
            duplicates=np.array(self._duplicates, DUPLICATE),
            failures=tuple(self._failures),
            bytes_in=self._bytes_in,
            bytes_kept=self._bytes_kept,
            tar_bytes=tar_bytes,
        )

    def discard(self) -> None:
        """Remove what has been written, if it still is where it was."""
        if self._tar is not None:
            self._tar.discard()

    def _members(self, image: Converted) -> list[Member]:
        key = f"{self._number + self._count:09d}"
        members = [Member(f"{key}.{image.extension}", image.data)]
        if self._labels is not None and self._labels[image.index] >= 0:
            members.append(Member(f"{key}.cls", str(self._labels[image.index]).encode()))
        return sorted(members)

    def _index(self, tar_bytes: int) -> TarIndex:
        images = self._images[: self._count]
        labels = None if self._labels is None else np.asarray(self._labels[images["index"]], np.int64)
        return TarIndex(
            names=PathTable(self._source.name(index).encode() for index in images["index"].tolist()),
            offsets=np.ascontiguousarray(images["offset"]),
            sizes=np.ascontiguousarray(images["bytes"]),
            labels=labels if labels is not None and labels.min() >= 0 else None,
            tar_bytes=tar_bytes,
        )


def _row(image: Converted, offset: int) -> tuple:
    """Values of the fields of IMAGE."""
    return (
        image.index,
        offset,
        len(image.data),
        image.digest,
        image.size_in,
        image.size_out,
        image.format,
        image.extension,
    )


def index_path(tar: Path) -> Path:
    """Where the index of a shard lies."""
    return tar.with_name(index_name(tar.name))
