"""Features as arrays: `.npy` with a list of names beside it, `.npz`, and `.pt`."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from dinotrain.embedding.collected import Collected
from dinotrain.embedding.content import Column

AT_ONCE = 64 * 2**20
"""Bytes that are read at once."""
_NEVER = (1980, 1, 1, 0, 0, 0)
"""The date of the members of an archive: the same features are the same bytes whenever they are made."""


def write_npy(path: Path, features: Collected) -> None:
    """One array: pooled columns beside each other, or all patches of a layer."""
    with path.open("wb") as file:
        _put(file, _shape(features, features.columns), features.dtype, _beside(features))


def write_names(path: Path, features: Collected) -> None:
    """A CSV file with a line per row: number in the set, name, and class where there are any."""
    labels, classes = features.labels, features.source.classes
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "name"] if labels is None else ["index", "name", "label", "class"])
        for row, (index, name) in enumerate(zip(features.indices, features.names())):
            label = () if labels is None else (labels[row], classes[labels[row]] if classes else "")
            writer.writerow([index, name, *label])


def read_npy(path: Path, column: Column, columns: Iterable[Column]) -> Iterator[np.ndarray]:
    """A column of it, some rows at a time."""
    array = np.load(path, mmap_mode="r")
    if array.ndim > 2:
        yield from _slices(array)
        return
    before = sum(other.numbers for other in _until(columns, column))
    yield from _slices(array[:, before : before + column.numbers])


def write_npz(path: Path, features: Collected) -> None:
    """An array for each column, uncompressed; `index`, `name`, and `label` and `classes` where there are any."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for column in features.columns:
            with _member(archive, column.name) as file:
                _put(file, _shape(features, (column,)), features.dtype, features.rows(column.name))
        for name, array in _about_rows(features).items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        width = max(map(len, features.names()), default=1)
        with _member(archive, "name") as file:
            rows = (np.array([name], f"<U{width}") for name in features.names())
            _put(file, (len(features),), np.dtype(f"<U{width}"), rows)


def read_npz(path: Path, column: Column) -> Iterator[np.ndarray]:
    """A column, some rows at a time."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{column.name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        row = column.numbers * dtype.itemsize
        step = max(AT_ONCE // row, 1)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            yield np.frombuffer(file.read(count * row), dtype).reshape(count, *column.shape)


def write_pt(path: Path, features: Collected) -> None:
    """A dictionary for `torch.load`: a tensor for each column, `index`, `name`, and `label` and `classes`.

    It is written from files beside it, which take as much room as it does, and not much memory.
    """
    import torch

    content, files = {}, [path.with_name(f"{path.name}.{column.name}.new") for column in features.columns]
    try:
        for column, file in zip(features.columns, files):
            shape = _shape(features, (column,))
            with file.open("wb") as opened:
                for rows in features.rows(column.name):
                    opened.write(np.ascontiguousarray(rows).data)
            # Of no rows there is nothing to map.
            content[column.name] = (
                torch.from_numpy(np.memmap(file, features.dtype, "r+", shape=shape))
                if len(features)
                else torch.empty(shape)
            )
        content |= {name: torch.from_numpy(array) for name, array in _about_rows(features, classes=False).items()}
        content["name"] = list(features.names())
        if features.source.classes is not None:
            content["classes"] = list(features.source.classes)
        torch.save(content, path)
    finally:
        content.clear()
        for file in files:
            file.unlink(missing_ok=True)


def read_pt(path: Path, column: Column) -> Iterator[np.ndarray]:
    """A column, some rows at a time."""
    import torch

    return _slices(torch.load(path, mmap=True, weights_only=True)[column.name].numpy())


def _about_rows(features: Collected, *, classes: bool = True) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {"index": features.indices}
    if features.labels is not None:
        found["label"] = features.labels
    if classes and features.source.classes is not None:
        found["classes"] = np.array(features.source.classes, np.str_)
    return found


def _shape(features: Collected, columns: tuple[Column, ...]) -> tuple[int, ...]:
    if len(columns) == 1:
        return (len(features), *columns[0].shape)
    return (len(features), sum(column.numbers for column in columns))


def _beside(features: Collected) -> Iterator[np.ndarray]:
    names = [column.name for column in features.columns]
    for piece in features.pieces(*names):
        parts = [piece.columns[name] for name in names]
        yield parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _put(file: BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[np.ndarray]) -> None:
    """An array of which never more than some rows are in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in rows:
        file.write(np.ascontiguousarray(part, dtype).tobytes())


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[Any]:
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _NEVER), "w", force_zip64=True) as file:
        yield file


def _slices(array: np.ndarray) -> Iterator[np.ndarray]:
    row = max(int(array[:1].nbytes), 1)
    step = max(AT_ONCE // row, 1)
    return (np.ascontiguousarray(array[start : start + step]) for start in range(0, len(array), step))


def _until(columns: Iterable[Column], wanted: Column) -> Iterator[Column]:
    for column in columns:
        if column == wanted:
            return
        yield column
