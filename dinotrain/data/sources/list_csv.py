"""CSV files with a column of image paths."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase
from itertools import chain, islice
from operator import itemgetter

import numpy as np

from dinotrain.data.sources.list_columns import Columns
from dinotrain.data.sources.list_lines import whole_lines
from dinotrain.data.sources.list_rows import Rows, numbered
from dinotrain.errors import UserError

_BATCH = 256  # few at a time leave little for the garbage collector to look through


def read_csv(file: BufferedIOBase, name: str, columns: Columns, numbers: dict[bytes, int]) -> Iterator[Rows]:
    """Rows of a CSV file in UTF-8, whose first line names the columns, with commas, semicolons or tabs between them.

    Args:
        file: the table.
        name: its name, for messages.
        columns: which columns to take.
        numbers: number of each label so far; new ones are added.

    Raises:
        UserError: it is no such file.
    """
    texts = (chunk.decode("utf-8", "surrogateescape") for chunk in whole_lines(file))
    lines = chain.from_iterable(io.StringIO(text, newline="") for text in texts)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), delimiter=max(",;\t", key=first.count))
    try:
        header = [title.strip() for title in next(reader, [])]
        path_column, label_column = columns.find(name, header)
        path = itemgetter(header.index(path_column))
        label = None if label_column is None else itemgetter(header.index(label_column))
        while rows := list(islice(reader, _BATCH)):
            rows = [row for row in rows if row]
            _check(rows, name, len(header), path)
            paths = _encoded(map(path, rows))
            sizes = np.fromiter(map(len, paths), np.int64, len(paths))
            labels = None if label is None else numbered(_encoded(map(str.strip, map(label, rows))), numbers)
            yield Rows(np.frombuffer(b"".join(paths), np.uint8), sizes, labels)
    except csv.Error as error:
        raise UserError(f"data.root: {name}, line {reader.line_num}: {error}") from error


def _check(rows: list[list[str]], name: str, needed: int, path: Callable[[list[str]], str]) -> None:
    """Raises `UserError` for a row that lacks a column, or its path."""
    if min(map(len, rows), default=needed) < needed:
        row = next(row for row in rows if len(row) < needed)
        raise UserError(f"data.root: {name}: the row {','.join(row)[:80]!r} has {len(row)} of {needed} columns")
    if not all(map(str.strip, map(path, rows))):
        row = next(row for row in rows if not path(row).strip())
        raise UserError(f"data.root: {name}: the row {','.join(row)[:80]!r} has no path")


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogateescape") for text in texts]
