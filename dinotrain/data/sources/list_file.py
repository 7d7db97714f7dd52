"""A file that lists images: where it is, of which kind, whether it has changed."""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Iterator
from os import PathLike

import numpy as np

from dinotrain.data.broken import BrokenImage
from dinotrain.data.paths import printable
from dinotrain.data.progress import progress
from dinotrain.data.sources.list_columns import Columns
from dinotrain.data.sources.list_csv import read_csv
from dinotrain.data.sources.list_lines import read_lines
from dinotrain.data.sources.list_parquet import read_parquet
from dinotrain.data.sources.list_rows import Rows, collect
from dinotrain.data.storage.remote import Remote, shown
from dinotrain.data.storage.table import cached
from dinotrain.errors import UserError

_TABLES = {".csv": read_csv, ".parquet": read_parquet}
_SETTLED_NS = 2 * 10**9
"""A list that changed less than this before it was read may change again without getting another time."""


def place(path: str | PathLike[str]) -> bytes:
    """A path, made absolute, or a URL as it is."""
    name = os.fsencode(path).removeprefix(b"file://")
    return name if b"://" in name else os.path.abspath(os.path.expanduser(name))


class ListFile:
    """The list.

    Args:
        root: its path or URL.
        columns: where it holds what, if it is a table.
        remote: reads it, if it is remote.
    """

    def __init__(self, root: str | PathLike[str], columns: Columns, remote: Remote) -> None:
        self._path, self._columns, self._remote = place(root), columns, remote
        self._is_remote = b"://" in self._path
        bare = self._path.partition(b"?")[0] if self._is_remote else self._path
        self.folder = os.path.dirname(bare)
        """What relative paths start from."""
        self._name = shown(os.fsdecode(self._path)) if self._is_remote else printable(self._path)
        self._read_table = _TABLES.get(os.fsdecode(os.path.splitext(bare)[1].lower()))
        if self._read_table is None and columns != Columns():
            warnings.warn(f"data.root: {self._name} is read as text, which has no columns to name", stacklevel=3)

    def listing(self) -> dict[str, np.ndarray]:
        """What `collect` makes of it, from the cache if it has not changed.

        Raises:
            UserError: it can't be read, or something is wrong with it.
        """
        asked, (stamp, settled) = time.time_ns(), self._stamp()

        def build() -> dict[str, np.ndarray]:
            state = {"stamp": stamp, "settled": np.array([settled]), "made": np.array([time.time_ns()])}
            return self._read() | state

        def valid(arrays: dict[str, np.ndarray]) -> bool:
            return np.array_equal(arrays["stamp"], stamp) and bool(arrays["settled"][0] or arrays["made"][0] >= asked)

        key = "\0".join(("1", os.fsdecode(self._path), self._columns.path, self._columns.label or ""))
        return cached("list", key, build, valid)

    def _stamp(self) -> tuple[np.ndarray, bool]:
        """What differs after a change, and whether any later change is sure to show."""
        try:
            if self._is_remote:
                stamp, settled = self._remote.stamp(os.fsdecode(self._path)), True
            else:
                info = os.stat(self._path)
                # Not the time of modification, which copies can set to what it was elsewhere.
                stamp = f"{info.st_size} {info.st_ctime_ns}"
                settled = 0 < info.st_ctime_ns < time.time_ns() - _SETTLED_NS
        except (OSError, BrokenImage) as error:
            raise self._unreadable(error) from error
        return np.frombuffer(stamp.encode(), np.uint8), settled

    def _read(self) -> dict[str, np.ndarray]:
        numbers: dict[bytes, int] = {}
        try:
            with self._open() as file:
                arrays = collect(self._name, self._rows(file, numbers), numbers)
        except (OSError, BrokenImage) as error:
            raise self._unreadable(error) from error
        if len(arrays["paths.ends"]) == 1:
            raise UserError(f"data.root: no path in {self._name}, expected one image path a line or row")
        return arrays

    def _open(self) -> io.BufferedIOBase:
        if self._is_remote:
            return io.BytesIO(self._remote.read(os.fsdecode(self._path)))
        return open(self._path, "rb")

    def _rows(self, file: io.BufferedIOBase, numbers: dict[bytes, int]) -> Iterator[Rows]:
        """All rows, telling how far it has come."""
        rows = read_lines(file, numbers)
        if self._read_table is not None:
            rows = self._read_table(file, self._name, self._columns, numbers)
        done = 0
        with progress("Reading the list of images", unit="rows") as report:
            for some in rows:
                done += len(some.sizes)
                report(done)
                yield some

    def _unreadable(self, error: OSError | BrokenImage) -> UserError:
        reason = error.reason if isinstance(error, BrokenImage) else error.strerror
        return UserError(f"data.root: can't read {self._name}: {reason}; expected a list of image paths")
