"""Features as a Parquet table: a row per image, a column of lists of fixed length for each kind of token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dinotrain.embedding.collected import Collected
from dinotrain.embedding.content import Column

GROUP_BYTES = 64 * 2**20
MOST_ROWS = 65536


def write_parquet(path: Path, features: Collected) -> None:
    """Columns `index`, `name`, `label` where there are any, and the features; a row group at a time in memory.

    The shape of a row of features stands in the metadata of its column, class names in those of the table.
    """
    from pyarrow import Table, parquet

    schema = _schema(features)
    row = sum(column.numbers for column in features.columns) * features.dtype.itemsize
    wanted = min(max(GROUP_BYTES // row, 1), MOST_ROWS)
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(path, schema, **plain) as writer:
        for start, group in _groups(features, wanted):
            arrays = _arrays(features, schema, start, group)
            writer.write_table(Table.from_arrays(arrays, schema=schema), row_group_size=max(len(arrays[0]), 1))


def read_parquet(path: Path, column: Column) -> Iterator[np.ndarray]:
    """A column, a row group at a time."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            values = file.read_row_group(number, columns=[column.name]).column(0).combine_chunks()
            yield np.asarray(values.flatten()).reshape(-1, *column.shape)


def _schema(features: Collected) -> Any:
    import pyarrow

    number = pyarrow.from_numpy_dtype(features.dtype)
    fields = [pyarrow.field("index", pyarrow.int64()), pyarrow.field("name", pyarrow.string())]
    if features.labels is not None:
        fields.append(pyarrow.field("label", pyarrow.int64()))
    for column in features.columns:
        shape = {"shape": json.dumps(column.shape)}
        fields.append(pyarrow.field(column.name, pyarrow.list_(number, column.numbers), metadata=shape))
    classes = features.source.classes
    return pyarrow.schema(fields, None if classes is None else {"classes": json.dumps(classes)})


def _groups(features: Collected, wanted: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Pieces together, until they have as many rows as wanted: the number of the first row, and the columns."""
    names = [column.name for column in features.columns]
    start, waiting = 0, []
    for piece in features.pieces(*names):
        waiting.append(piece.columns)
        rows = sum(len(columns[names[0]]) for columns in waiting)
        if rows >= wanted:
            yield start, {name: np.concatenate([columns[name] for columns in waiting]) for name in names}
            start, waiting = start + rows, []
    if waiting:
        yield start, {name: np.concatenate([columns[name] for columns in waiting]) for name in names}


def _arrays(features: Collected, schema: Any, start: int, group: dict[str, np.ndarray]) -> list:
    import pyarrow

    rows = slice(start, start + len(next(iter(group.values()))))
    indices, labels = features.indices[rows], features.labels
    arrays: list[Any] = [pyarrow.array(indices), pyarrow.array([features.name(int(i)) for i in indices], "string")]
    if labels is not None:
        arrays.append(pyarrow.array(labels[rows]))
    for column in features.columns:
        flat = pyarrow.array(group[column.name].reshape(-1))
        arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=schema.field(column.name).type))
    return arrays
