"""What the footer of a Parquet file says of its column of images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int64

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.class_column import as_labels
from dinotrain.data.sources.parquet_page import CODECS, DICTIONARIES, ENCODINGS
from dinotrain.data.sources.thrift import Fields, read_struct
from dinotrain.data.storage.ranges import RangeFile, Ranges
from dinotrain.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL = 2**16
"""Bytes that are read from the end of a file, most footers are shorter."""
_BYTE_ARRAY, _UTF8, _STRING, _REQUIRED, _REPEATED = 6, 0, 1, 0, 2
_KINDS = ("truth values", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "bytes", "bytes of a fixed number")
_CODECS_OF_ARROW = frozenset({*CODECS, 5, 7})
"""With both kinds of LZ4."""


class Chunks(NamedTuple):
    """The column chunks of one file, a row for each row group that is not empty."""

    group: Int64[np.ndarray, "G"]
    """Number of the row group in the file."""
    first_row: Int64[np.ndarray, "G"]
    """Number of its first row in the file."""
    rows: Int64[np.ndarray, "G"]
    start: Int64[np.ndarray, "G"]
    """Place of the chunk in the file."""
    size: Int64[np.ndarray, "G"]
    """Bytes of the chunk in the file."""
    plain_size: Int64[np.ndarray, "G"]
    """Bytes of the chunk without compression."""
    dictionary: Int64[np.ndarray, "G"]
    """Bytes of the dictionary in the file, 0 if there is none."""


class Footer(NamedTuple):
    """What is needed to read the images of a file."""

    size: int
    """Bytes of the file."""
    leaf: str
    """The column of bytes in the file."""
    paths: str | None
    """The column of paths beside it."""
    nullable: int
    """Greatest definition level of the column: 0 when every row has a value."""
    codec: int
    """Number of its compression."""
    by_page: bool
    """Whether `parquet_page` can read the column; pyarrow reads it by row group otherwise."""
    chunks: Chunks
    labels: pa.ChunkedArray | None
    label_names: tuple[str, ...] | None
    """Names of the classes, by number, where the schema has them."""


def read_footer(ranges: Ranges, number: int, column: str, label_column: str | None) -> Footer:
    """Read the footer of a file, and its labels.

    Args:
        ranges: the files.
        number: which of them.
        column: name of the column of images: bytes, or a structure with the field `bytes`.
        label_column: name of the column of labels; None if there is none to be read.

    Raises:
        BrokenImage: the file can't be read, or is no whole Parquet file.
        UserError: it has no such column.
    """
    size = ranges.size(number)
    tail = _tail(ranges, number, size)
    try:
        metadata, _ = read_struct(tail)
        leaves = {leaf.path: leaf for leaf in _leaves(metadata[2])}
        footer = _described(metadata, leaves, size, column, label_column)
        if label_column is not None and label_column in _tops(leaves):
            footer = footer._replace(labels=_labels(ranges, number, size, tail, label_column))
    except (UserError, BrokenImage):
        raise
    except Exception as error:  # damaged files raise nearly every type, here and in pyarrow
        told = not isinstance(error, (LookupError, TypeError, AttributeError))
        reason = " ".join(str(error).split()) if told else "its footer is damaged"
        raise BrokenImage(f"not a readable Parquet file: {reason}") from error
    if footer.labels is not None and len(footer.labels) != footer.chunks.rows.sum():
        raise BrokenImage("damaged Parquet file: its columns have different numbers of rows")
    return footer


class _Leaf(NamedTuple):
    """A column that holds values."""

    path: str
    kind: int
    text: bool
    definition: int
    """Greatest definition level."""
    repetition: int
    """Greatest repetition level."""


def _leaves(schema: list[Fields]) -> Iterator[_Leaf]:
    """The columns of a schema, which is a tree in depth-first order. Field numbers are those of `SchemaElement`."""
    open_groups = [(schema[0][5], "", 0, 0)]  # children yet to come, path, levels
    for element in schema[1:]:
        while not open_groups[-1][0]:
            open_groups.pop()
        left, above, definition, repetition = open_groups.pop()
        open_groups.append((left - 1, above, definition, repetition))
        form = element.get(3, _REQUIRED)
        definition, repetition = definition + (form != _REQUIRED), repetition + (form == _REPEATED)
        path = f"{above}{element[4].decode()}"
        if element.get(5):
            open_groups.append((element[5], f"{path}.", definition, repetition))
        else:
            text = element.get(6) == _UTF8 or _STRING in element.get(10, {})
            yield _Leaf(path, element[1], text, definition, repetition)


def _described(metadata: Fields, leaves: dict[str, _Leaf], size: int, column: str, label_column: str | None) -> Footer:
    """All but the labels. Field numbers are those of `FileMetaData`, `RowGroup` and `ColumnMetaData`."""
    leaf = _leaf(leaves, column)
    position = list(leaves).index(leaf)
    columns = [group[1][position][3] for group in metadata[4]]
    chunks = _chunks([group[3] for group in metadata[4]], columns)
    if min((int(array.min()) for array in chunks if len(array)), default=0) < 0:
        raise BrokenImage("damaged Parquet file: a number below 0 in its footer")
    if len(chunks.rows) and (chunks.start + chunks.size).max() > size:
        raise BrokenImage("cut short: its row groups go on after its end")
    encodings, codecs = {name for chunk in columns for name in chunk[2]}, {chunk[4] for chunk in columns}
    if unknown := codecs - _CODECS_OF_ARROW:
        raise BrokenImage(f"compressed in a way that can't be read (codec {min(unknown)} of Parquet)")
    paths = leaf.removesuffix("bytes") + "path"
    return Footer(
        size=size,
        leaf=leaf,
        paths=paths if leaf != column and paths in leaves else None,
        nullable=leaves[leaf].definition,
        codec=max(codecs, default=0),
        by_page=encodings <= ENCODINGS and codecs <= CODECS.keys() and len(codecs) <= 1,
        chunks=chunks,
        labels=None,
        label_names=_label_names(metadata.get(5, []), label_column),
    )


def _labels(ranges: Ranges, number: int, size: int, tail: bytes, column: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(pa.BufferReader(tail))
    source = pa.PythonFile(RangeFile(partial(ranges.peek, number), size), mode="r")
    table = pq.ParquetFile(source, metadata=metadata).read(columns=[column], use_threads=False)
    return as_labels(table.column(column), column)


def _tops(paths: Iterable[str]) -> list[str]:
    """Names of the columns at the top."""
    return list(dict.fromkeys(path.split(".")[0] for path in paths))


def _tail(ranges: Ranges, number: int, size: int) -> bytes:
    """The footer with the 8 bytes after it."""
    if size < 12:
        raise BrokenImage("empty file" if not size else "not a Parquet file")
    tail = ranges.peek(number, max(size - _TAIL, 0), size)
    if tail.endswith(_ENCRYPTED):
        raise BrokenImage("an encrypted Parquet file")
    if not tail.endswith(_MAGIC):
        begins = ranges.peek(number, 0, len(_MAGIC)) == _MAGIC
        raise BrokenImage("cut short: a Parquet file without its end" if begins else "not a Parquet file")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise BrokenImage("damaged Parquet file: its footer is longer than the file")
    return tail[-length:] if length <= len(tail) else ranges.peek(number, size - length, size)


def _leaf(leaves: dict[str, _Leaf], column: str) -> str:
    """Name of the column of bytes, checked."""
    leaf = column if column in leaves else f"{column}.bytes"
    if leaf not in leaves:
        found = ", ".join(_tops(leaves))
        inside = [path for path in leaves if path.startswith(f"{column}.")]
        what = f"column {column!r} holds no bytes (it has {', '.join(inside)})" if inside else f"no column {column!r}"
        raise UserError(f"data.column: {what}; the columns of the file: {found}")
    found = leaves[leaf]
    if found.repetition:
        raise UserError(f"data.column: column {column!r} holds lists, expected the bytes of one image in each row")
    if found.text:
        raise UserError(f"data.column: column {column!r} holds text, expected bytes; data=list reads columns of paths")
    if found.kind != _BYTE_ARRAY:
        raise UserError(f"data.column: column {column!r} holds {_KINDS[found.kind]}, expected bytes")
    return leaf


def _chunks(rows: list[int], columns: list[Fields]) -> Chunks:
    fields: list[tuple[int, ...]] = []
    for chunk in columns:
        # Some writers leave 0 where there is no dictionary.
        places = [place for place in (chunk.get(11), chunk[9]) if place] or [0]
        dictionary = max(places) - min(places) if DICTIONARIES & set(chunk[2]) else 0
        fields.append((min(places), chunk[7], chunk[6], dictionary))
    start, size, plain_size, dictionary = np.array(fields, np.int64).reshape(-1, 4).T
    count = np.array(rows, np.int64)
    some = np.flatnonzero(count)
    arrays = (np.cumsum(count) - count, count, start, size, plain_size, dictionary)
    return Chunks(some, *(array[some] for array in arrays))


def _label_names(pairs: list[Fields], column: str | None) -> tuple[str, ...] | None:
    """Names of a `ClassLabel` of Hugging Face datasets, in the keys and values of a file."""
    try:
        text = next(pair[2] for pair in pairs if pair[1] == b"huggingface")
        names = json.loads(text)["info"]["features"][column]["names"]
    except (StopIteration, KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
