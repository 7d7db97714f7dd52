"""Parquet files with a column of image paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from dinotrain.data.sources.list_columns import Columns
from dinotrain.data.sources.list_rows import NO_LABEL, Rows, numbered
from dinotrain.errors import UserError

if TYPE_CHECKING:
    from pyarrow import Array, Field

_BATCH = 2**18


def read_parquet(file: BufferedIOBase, name: str, columns: Columns, numbers: dict[bytes, int]) -> Iterator[Rows]:
    """Rows of a Parquet file whose paths are text, and whose labels are text or whole numbers.

    Args:
        file: the table.
        name: its name, for messages.
        columns: which columns to take.
        numbers: number of each label so far; new ones are added.

    Raises:
        UserError: it is no such file.
    """
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ImportError as error:
        raise UserError(f"data.root: {name} needs pyarrow: pip install 'dinotrain[data]'") from error
    try:
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        path, label = columns.find(name, schema.names)
        texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
        _check(name, schema.field(path), texts, "paths as text (data=parquet reads images that lie in the table)")
        if label is not None:
            _check(name, schema.field(label), (*texts, types.is_integer), "text or whole numbers")
        for batch in table.iter_batches(_BATCH, columns=[path] if label is None else [path, label]):
            block, sizes = _paths(name, batch.column(path))
            yield Rows(block, sizes, None if label is None else _labels(batch.column(label), numbers))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"data.root: can't read {name}: {' '.join(str(error).split())}") from error


def _check(name: str, field: Field, kinds: tuple[Callable, ...], expected: str) -> None:
    """Raises `UserError` for a column of none of these types."""
    kind = getattr(field.type, "value_type", field.type)  # of a dictionary
    if not any(fits(kind) for fits in kinds):
        raise UserError(f"data.root: {name}: the column {field.name} has type {field.type}, expected {expected}")


def _paths(name: str, column: Array) -> tuple[np.ndarray, Int64[np.ndarray, "n"]]:
    """Bytes of the paths one after another, and their lengths."""
    import pyarrow

    array = column.cast(pyarrow.large_binary())
    _, ends, data = array.buffers()
    ends = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    sizes = np.diff(ends)
    if array.null_count or not sizes.all():
        raise UserError(f"data.root: {name}: some rows have no path")
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], sizes


def _labels(column: Array, numbers: dict[bytes, int]) -> Int64[np.ndarray, "n"]:
    import pyarrow

    if pyarrow.types.is_integer(column.type):
        column = column.cast(pyarrow.string())
    coded = column.cast(pyarrow.large_binary()).dictionary_encode()
    found = numbered([name.strip() for name in coded.dictionary.to_pylist()], numbers)
    # Row by row the place among the batch's labels; the last for none.
    places = coded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return np.append(found, NO_LABEL)[places]
