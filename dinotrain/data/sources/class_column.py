"""Class numbers of a column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from dinotrain.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = "data.label_column"
_MOST_CLASSES = 1_000_000


def as_labels(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column as int64 or text, checked to hold a label in every row; raises `UserError`."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"{_KEY}: column {name!r} holds {kind}, expected whole numbers or text (null for no labels)")
    if column.null_count:
        raise UserError(
            f"{_KEY}: {column.null_count} of {len(column)} rows have no label in column {name!r}, "
            "expected all or none (null for no labels)"
        )
    return column.cast(pa.string() if text else pa.int64())


def class_numbers(
    parts: Sequence[pa.ChunkedArray], names: Sequence[str] | None, known: Sequence[str] | None
) -> tuple[Int64[np.ndarray, "N"] | None, tuple[str, ...] | None]:
    """Class numbers, and the names of the classes.

    Whole numbers are class numbers where the classes have names. Otherwise the different labels are the classes,
    sorted by value or by text. Where all labels are below 0, as in the test splits of some sets, there are none.

    Args:
        parts: whole numbers or text, one after another.
        names: names of the classes, by number.
        known: classes in the order of their numbers, for instance those of the training split; classes that are not
            among them follow.

    Raises:
        UserError: there are labels below 0 beside others, some without a name, some are text and some are numbers,
            or there is no end to the classes.
    """
    import pyarrow as pa
    from pyarrow.compute import index_in  # pyright: ignore[reportAttributeAccessIssue]

    column = _joined(parts)
    found = column.unique()
    if len(found) > _MOST_CLASSES:
        raise UserError(f"{_KEY}: it has {len(found)} different values, which are no classes (null for no labels)")
    values = sorted(found.to_pylist())
    if not values:
        return None, None
    whole = not isinstance(values[0], str)
    if whole and values[-1] < 0:
        return None, None
    if whole and values[0] < 0:
        raise UserError(f"{_KEY}: some labels are {values[0]}, expected 0 or more (null for no labels)")
    if whole and names is not None and values[-1] >= len(names):
        raise UserError(f"{_KEY}: there is a label {values[-1]}, but there are {len(names)} class names")
    if whole and names is not None and (known is None or tuple(known) == tuple(names)):
        return np.asarray(column, np.int64), tuple(names)
    titles: list[str] = [names[int(value)] if names is not None and whole else str(value) for value in values]
    numbers: dict[str, int] = {name: number for number, name in enumerate(known or titles)}
    table = np.array([numbers.setdefault(title, len(numbers)) for title in titles], np.int64)
    places = index_in(column, value_set=pa.array(values, column.type))
    return table[np.asarray(places)], tuple(numbers)


def _joined(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    import pyarrow as pa

    kinds = sorted({str(part.type) for part in parts})
    if len(kinds) > 1:
        raise UserError(f"{_KEY}: the labels of some files are {kinds[0]}, of others {kinds[1]}; expected one of them")
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
