"""Images out of Parquet files by row, with a bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import read_file
from dinotrain.data.paths import printable
from dinotrain.data.sources.parquet_footer import Chunks, Footer
from dinotrain.data.sources.parquet_page import UNCOMPRESSED, Pages, Values, find_pages, read_values, walk_pages
from dinotrain.data.storage.bounded_cache import BoundedCache
from dinotrain.data.storage.ranges import RangeFile, Ranges
from dinotrain.data.storage.remote import is_remote

if TYPE_CHECKING:
    import pyarrow as pa

MOST_TIMES = 4
"""How many times `cache_bytes` may be kept where a single row group needs it."""
_LARGE_PAGE, _FIRST = 2**22, 3
_LONG = 2**31 - 1
"""Bytes that one of Arrow's usual arrays of bytes can hold."""


class RowGroups:
    """The images of several files by number of row group, over all files, and of row in it.

    Of a file on disk no more than the page is read in which an image lies (and the dictionary, if it has one). A remote
    one without a cache on disk is read by column chunk, and one that `parquet_page` can't read is decoded by pyarrow,
    by row group. What was read last is kept. For threads and forked processes: each process keeps its own.

    Args:
        ranges: the files.
        footers: one for each file.
        cache_bytes: bound on what a process keeps; where one row group needs more it is raised, up to `MOST_TIMES`.
    """

    def __init__(self, ranges: Ranges, footers: Sequence[Footer], cache_bytes: int) -> None:
        self._ranges = ranges
        # The labels of the footers are large, and kept elsewhere.
        self._columns = tuple(footer._replace(labels=None, chunks=_no_rows(footer)) for footer in footers)
        counts = [len(footer.chunks.rows) for footer in footers]
        self.files: Int64[np.ndarray, "G"] = np.repeat(np.arange(len(footers)), counts)
        fields = (np.concatenate(arrays) for arrays in zip(*(footer.chunks for footer in footers), strict=True))
        self.group, self.first_row, self.rows, self.start, self.size, self.plain_size, self.dictionary = fields
        self._kept: BoundedCache[Pages | Values | bytes | pa.Array] = BoundedCache(cache_bytes)
        self.held: Int64[np.ndarray, "G"] = self._sizes_to_hold()
        # With less than one row group, its parts would be read again for every image.
        self._kept.limit = max(cache_bytes, min(int(1.25 * self.held.max(initial=0)), MOST_TIMES * cache_bytes))

    @property
    def kept_bytes(self) -> int:
        """What this process keeps."""
        return self._kept.cost

    def _sizes_to_hold(self) -> Int64[np.ndarray, "G"]:
        """Bytes of each row group that must be kept, lest they are read again for every image of it."""
        by_page = np.array([column.by_page for column in self._columns])[self.files]
        packed = np.array([column.codec != UNCOMPRESSED for column in self._columns])[self.files]
        far = np.array([self._ranges.far(file) for file in range(len(self._columns))])[self.files]
        if self._has_large_pages(np.flatnonzero(by_page & packed & ~far)):
            by_page &= ~packed | far
        dictionary = self.dictionary * (self.plain_size / np.maximum(self.size, 1))
        pages = np.where(far, self.size + packed * self.plain_size, dictionary.astype(np.int64))
        return np.where(by_page, pages, self.plain_size)

    def _has_large_pages(self, groups: Int64[np.ndarray, "some"]) -> bool:
        """Whether it takes long to unpack a page, by the example of the first pages of the largest row group."""
        if not len(groups):
            return False
        group = int(groups[self.plain_size[groups].argmax()])
        read = partial(self._ranges.peek, int(self.files[group]))
        try:
            return any(page.plain_size > _LARGE_PAGE for page in islice(walk_pages(read, *self._span(group)), _FIRST))
        except BrokenImage:
            return False

    def fetch(self, groups: Iterable[int]) -> None:
        """Get remote row groups at once that are about to be read, as far as there is room for them."""
        wanted: list[int] = []
        room = self._kept.limit
        for group in sorted(set(groups)):
            column = self._columns[self.files[group]]
            if column.by_page and self._ranges.far(int(self.files[group])) and (group, "chunk") not in self._kept:
                room -= int(self.size[group])
                if room < 0:
                    break
                wanted.append(group)
        spans = [(int(self.files[group]), *self._span(group)) for group in wanted]
        try:
            blocks = self._ranges.read_many(spans) if spans else []
        except BrokenImage:  # reading the images one by one tells which of them are broken
            return
        for group, block in zip(wanted, blocks, strict=True):
            self._kept.put((group, "chunk"), block, len(block))

    def read(self, group: int, row: int) -> bytes:
        """The bytes of an image. Raises `BrokenImage` when they can't be had."""
        column = self._columns[self.files[group]]
        data = self._from_page(group, row, column) if column.by_page else self._from_group(group, row, column)
        return self._from_path(group, row, column) if data is None else data

    def _from_page(self, group: int, row: int, column: Footer) -> bytes | None:
        pages = self._pages(group)
        number = int(np.searchsorted(pages.firsts, row, side="right")) - 1
        values = self._values(group, number, column)
        slot = values.slot(row - int(pages.firsts[number]))
        if slot < 0:
            return None
        if values.bounds is None:
            values = self._values(group, -1, column)
        assert values.bounds is not None
        if slot >= len(values.bounds):
            raise BrokenImage("damaged Parquet file: a value is not in its dictionary")
        start, end = values.bounds[slot].tolist()
        return self._range(group, start, end) if values.block is None else values.block[start:end]

    def _pages(self, group: int) -> Pages:
        def find() -> tuple[Pages, int]:
            pages = find_pages(partial(self._range, group), *self._span(group), int(self.plain_size[group]))
            if sum(page.rows for page in pages.data) != self.rows[group]:
                raise BrokenImage("damaged Parquet file: the rows of its pages are not those of the row group")
            return pages, 500 * (1 + len(pages.data))

        return self._kept.get((group, "pages"), find)  # pyright: ignore[reportReturnType]

    def _values(self, group: int, number: int, column: Footer) -> Values:
        """Those of a data page, or for -1 of the dictionary."""

        def decode() -> tuple[Values, int]:
            pages = self._pages(group)
            page = pages.dictionary if number < 0 else pages.data[number]
            if page is None:
                raise BrokenImage("damaged Parquet file: the dictionary of its values is missing")
            values = read_values(partial(self._range, group), page, column.codec, column.nullable)
            return values, values.cost

        return self._kept.get((group, number), decode)  # pyright: ignore[reportReturnType]

    def _span(self, group: int) -> tuple[int, int]:
        return int(self.start[group]), int(self.start[group] + self.size[group])

    def _range(self, group: int, start: int, stop: int) -> bytes:
        """Bytes of the file of a row group."""
        file = int(self.files[group])
        if not self._ranges.far(file):
            return self._ranges.read(file, start, stop)
        first, last = self._span(group)

        def load() -> tuple[bytes, int]:
            return self._ranges.read(file, first, last), last - first

        chunk = self._kept.get((group, "chunk"), load)
        return chunk[start - first : stop - first]  # pyright: ignore

    def _from_group(self, group: int, row: int, column: Footer) -> bytes | None:
        array = self._kept.get((group, "rows"), lambda: self._decoded(group, column.leaf))
        return array[row].as_py()  # pyright: ignore

    def _from_path(self, group: int, row: int, column: Footer) -> bytes:
        """The file that stands beside a missing value."""
        if column.paths is None:
            raise BrokenImage("null: no image in this row")
        paths = self._kept.get((group, "paths"), lambda: self._decoded(group, column.paths or ""))
        path = paths[row].as_py()  # pyright: ignore
        if not path:
            raise BrokenImage("null: no image in this row")
        file = self._ranges.paths[self.files[group]]
        if is_remote(file) or is_remote(path):
            raise BrokenImage(f"null: the row names {printable(os.fsencode(path))} instead of holding an image")
        return read_file(os.path.join(os.path.dirname(file), path))

    def _decoded(self, group: int, leaf: str) -> tuple[pa.Array, int]:
        """A column of a row group, as pyarrow reads it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = int(self.files[group])
        try:
            whole = RangeFile(partial(self._ranges.read, number), self._columns[number].size)
            long = pa.large_binary() if self.plain_size[group] > _LONG else None
            file = pq.ParquetFile(pa.PythonFile(whole, mode="r"), binary_type=long, pre_buffer=False)
            table = file.read_row_group(int(self.group[group]), columns=[leaf], use_threads=False).flatten()
            while any(pa.types.is_struct(field.type) for field in table.schema):
                table = table.flatten()
            column = table.column(0).combine_chunks()
        except Exception as error:  # pyarrow raises nearly every type on damaged files
            raise BrokenImage(f"damaged Parquet file: {' '.join(str(error).split())}") from error
        if len(column) != self.rows[group]:
            raise BrokenImage("damaged Parquet file: the rows of a column are not those of the row group")
        return column, column.nbytes


def _no_rows(footer: Footer) -> Chunks:
    """Chunks of none of its row groups."""
    return footer.chunks._replace(**{name: array[:0] for name, array in footer.chunks._asdict().items()})
