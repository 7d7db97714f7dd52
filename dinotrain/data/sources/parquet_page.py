"""Pages of a column chunk of a Parquet file: where they are, and which bytes in them are the values.

A row group may be hundreds of megabytes of images, its pages are about one. To read an image, the page it lies in is
enough. See the "Parquet file format" (apache/parquet-format: README, Encodings and parquet.thrift).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.thrift import read_struct, read_varint

CODECS = {0: "uncompressed", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd"}
"""Compressions of pages that can be read here, by their number in parquet.thrift, with pyarrow's names."""
UNCOMPRESSED = 0

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_PLAIN, _PLAIN_DICTIONARY, _RLE, _BIT_PACKED, _RLE_DICTIONARY = 0, 2, 3, 4, 8
DICTIONARIES = frozenset({_PLAIN_DICTIONARY, _RLE_DICTIONARY})
"""Encodings of values that stand in a dictionary."""
ENCODINGS = DICTIONARIES | {_PLAIN, _RLE, _BIT_PACKED}
"""Encodings of chunks that can be read here; the last is often named where nothing is written in it."""
_HEAD, _LONGEST_HEAD = 2**9, 2**20
"""Bytes read at first for a page header; it is longer when it holds statistics of long values."""

Read = Callable[[int, int], bytes]
"""Reads the bytes of the file from a place up to another."""


class Page(NamedTuple):
    """What the header of a page says."""

    kind: int
    start: int
    """Place of its body in the file."""
    size: int
    """Bytes of the body as it is stored."""
    plain_size: int
    """Bytes of the body without compression."""
    rows: int
    encoding: int
    levels: int
    """Bytes of definition levels before the values in a page of version 2, which are not compressed; else 0."""
    compressed: bool
    level_encoding: int = _RLE

    @property
    def in_dictionary(self) -> bool:
        """Whether the values stand in the dictionary page of the chunk."""
        return self.kind != _DICTIONARY and self.encoding in DICTIONARIES


class Pages(NamedTuple):
    """The pages of a column chunk."""

    data: tuple[Page, ...]
    firsts: Int64[np.ndarray, "P"]
    """Number of the first row of each data page."""
    dictionary: Page | None


class Values(NamedTuple):
    """The values of a page."""

    bounds: Int64[np.ndarray, "V 2"] | None
    """Where each value starts and ends, in `block` or else in the file; None: they stand in the dictionary page."""
    slots: Int32[np.ndarray, "rows"] | None
    """Number of each row's value, -1 for none; None: each row has its own."""
    block: bytes | None
    """The page, if it was compressed."""

    @property
    def cost(self) -> int:
        """Bytes in memory."""
        arrays = sum(array.nbytes for array in (self.bounds, self.slots) if array is not None)
        return arrays + len(self.block or b"") + 500

    def slot(self, row: int) -> int:
        """Number of a row's value, -1 for none."""
        return row if self.slots is None else int(self.slots[row])


def find_pages(read: Read, start: int, stop: int, plain_size: int) -> Pages:
    """Go from header to header through a column chunk.

    Args:
        read: reads the file.
        start: place of the chunk in it.
        stop: place after the chunk.
        plain_size: bytes of the chunk without compression.

    Raises:
        BrokenImage: it is damaged.
    """
    pages = list(walk_pages(read, start, stop))
    if max((page.plain_size for page in pages), default=0) > plain_size:
        raise BrokenImage("damaged Parquet file: a page is larger than its column")
    data = tuple(page for page in pages if page.kind in (_DATA, _DATA_V2))
    dictionary = next((page for page in pages if page.kind == _DICTIONARY), None)
    rows = np.array([page.rows for page in data], np.int64)
    return Pages(data, np.cumsum(rows) - rows, dictionary)


def walk_pages(read: Read, start: int, stop: int) -> Iterator[Page]:
    """The pages of a column chunk, each of which is found by the header of the one before it."""
    while start < stop:
        page = _header(read, start, stop)
        yield page
        start = page.start + page.size
    if start != stop:
        raise BrokenImage("damaged Parquet file: a page goes on after the end of its column")


def read_values(read: Read, page: Page, codec: int, nullable: int) -> Values:
    """The values of a page.

    Args:
        read: reads the file.
        page: its header.
        codec: number of the compression of the chunk, one of `CODECS`.
        nullable: greatest definition level of the column: 0 when every row has a value.

    Raises:
        BrokenImage: it is damaged.
    """
    try:
        stored = read(page.start, page.start + page.size)
        packed = page.compressed and codec != UNCOMPRESSED
        block = _unpacked(stored, page, codec) if packed else stored
        present, place = _levels(block, page, nullable)
        if page.in_dictionary:
            return Values(None, _dictionary_slots(block, place, page.rows, present), None)
        if page.encoding not in (_PLAIN, _PLAIN_DICTIONARY):  # the latter is the name of old for a dictionary itself
            raise ValueError(f"encoding {page.encoding}, which its column does not name")
        count = page.rows if present is None else int(present.sum())
        slots = None if present is None else np.where(present, np.cumsum(present) - 1, -1).astype(np.int32)
        bounds = _bounds(block, place, count)
        return Values(bounds, slots, block) if packed else Values(bounds + page.start, slots, None)
    except (ValueError, IndexError, OverflowError, OSError, struct.error) as error:
        raise BrokenImage(f"damaged page in Parquet file: {' '.join(str(error).split())}") from error


def _header(read: Read, start: int, stop: int) -> Page:
    for size in (_HEAD, _LONGEST_HEAD):
        data = read(start, min(start + size, stop))
        try:
            fields, length = read_struct(data)
            return _page(fields, start + length)
        except IndexError:
            continue
        except (ValueError, KeyError, TypeError, RecursionError):
            break
    raise BrokenImage("damaged Parquet file: no page header where one should be")


def _page(fields: dict[int, Any], start: int) -> Page:
    """Field numbers are those of `PageHeader` in parquet.thrift."""
    kind, plain_size, size = fields[1], fields[2], fields[3]
    if kind == _DATA_V2:
        head = fields[8]
        page = Page(kind, start, size, plain_size, head[1], head[4], head[5], head.get(7, True))
    elif kind == _INDEX:
        page = Page(kind, start, size, plain_size, 0, 0, 0, True)
    else:
        head = fields[7 if kind == _DICTIONARY else 5]
        page = Page(kind, start, size, plain_size, head[1], head[2], 0, True, head[3] if kind == _DATA else _RLE)
    if min(page.size, page.plain_size, page.rows, page.levels) < 0:
        raise ValueError("number below 0")
    return page


def _unpacked(stored: bytes, page: Page, codec: int) -> bytes:
    import pyarrow as pa

    levels, packed = stored[: page.levels], memoryview(stored)[page.levels :]
    size = page.plain_size - page.levels
    return levels + pa.decompress(packed, decompressed_size=size, codec=CODECS[codec], asbytes=True) if size else levels


def _levels(block: bytes, page: Page, nullable: int) -> tuple[np.ndarray | None, int]:
    """Which rows have a value (None: all), and where the values start."""
    if not nullable or page.kind == _DICTIONARY:
        return None, 0
    start, end = 0, page.levels
    if page.level_encoding != _RLE:
        raise ValueError("definition levels in an encoding of old")
    if page.kind == _DATA:
        start = 4
        end = start + struct.unpack_from("<I", block)[0]
    present = _hybrid(block, start, end, nullable.bit_length(), page.rows) == nullable
    return None if present.all() else present, end


def _dictionary_slots(block: bytes, place: int, rows: int, present: np.ndarray | None) -> Int32[np.ndarray, "rows"]:
    slots = np.full(rows, -1, np.int32)
    count = rows if present is None else int(present.sum())
    if count:
        values = _hybrid(block, place + 1, len(block), block[place], count)
        slots[slice(None) if present is None else present] = values
    return slots


def _hybrid(data: bytes, place: int, end: int, width: int, count: int) -> Int32[np.ndarray, "count"]:
    """Numbers of `width` bits in runs that either repeat one number or pack several."""
    runs: list[np.ndarray] = []
    left = count
    while left:
        if place >= end:
            raise ValueError("fewer numbers than rows")
        head, place = read_varint(data, place)
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data, np.uint8, min(size, end - place), place), bitorder="little")
            run = bits[: len(bits) // max(width, 1) * width].reshape(-1, width) @ (1 << np.arange(width))
            run = run if width else np.zeros((head >> 1) * 8, np.int64)
        else:
            size = (width + 7) // 8
            run = np.full(min(head >> 1, left), int.from_bytes(data[place : place + size], "little"))
        if not len(run):
            raise ValueError("empty run of numbers")
        place += size
        runs.append(run[:left])
        left -= len(runs[-1])
    return np.concatenate([*runs, np.empty(0, np.int64)]).astype(np.int32)


def _bounds(block: bytes, place: int, count: int) -> Int64[np.ndarray, "count 2"]:
    """Each value in PLAIN encoding has its length before it."""
    if 4 * count > len(block) - place:
        raise ValueError("fewer values than rows")
    bounds = np.empty((count, 2), np.int64)
    length = struct.Struct("<I").unpack_from
    for value in range(count):
        start = place + 4
        place = start + length(block, place)[0]
        bounds[value] = start, place
    if place > len(block):
        raise ValueError("a value goes on after the end of its page")
    return bounds
