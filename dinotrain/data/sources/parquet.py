"""Images in a column of Parquet files, as Hugging Face datasets have them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from os import PathLike

import numpy as np

from dinotrain.data.arguments import share, whole
from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.order import Order, Windowed
from dinotrain.data.paths import printable
from dinotrain.data.progress import progress
from dinotrain.data.source import Source
from dinotrain.data.sources.class_column import class_numbers
from dinotrain.data.sources.parquet_files import parquet_files, told
from dinotrain.data.sources.parquet_footer import Footer, read_footer
from dinotrain.data.sources.parquet_rows import MOST_TIMES, RowGroups
from dinotrain.data.storage.ranges import Ranges
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError

_READERS = 16
_LABEL = "label"


class ParquetSource(Source):
    """The images in a column of bytes of Parquet files; files sorted by path, rows in their order.

    The column holds the bytes of image files, or structures with the field `bytes` (and `path`, a file that is read
    where the bytes are null, from the folder of the Parquet file on). A folder with files or sub-folders for `train`
    and for `validation` (or else `test`) is read as two splits: this source is the first, `test()` the other.

    In the order of training a few row groups, `window`, are shuffled together. Where row groups have to be kept whole
    to be read (remote files without `storage.cache`, large compressed pages, large dictionaries, unusual encodings) it
    is lowered, with a warning, to as many as fit into `cache_mb`.

    Args:
        root: a folder (looked through at any depth), a file, or a pattern with `*`, as path or URL; or several.
        column: name of the column of images.
        label_column: name of the column of labels, whole numbers or text; None for no labels. A column `label` need
            not be there.
        window: row groups that are shuffled together.
        cache_mb: bound on what each process keeps of what it read, in megabytes.
        min_size: images with a shorter side than this many pixels count as broken.
        max_broken: share of the files that may be unreadable (a single one always may, if there are others).
        classes: class names in the order of their numbers, where the files name none; others follow.
        storage: how remote files are read.

    Raises:
        UserError: no such files, too many that can't be read, no such column, or labels that are none.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str] | Sequence[str],
        column: str = "image",
        label_column: str | None = _LABEL,
        window: int = 8,
        cache_mb: int = 256,
        min_size: int = 1,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        storage: Storage = Storage(),  # noqa: B008
    ) -> None:
        self.min_size = whole("min_size", min_size, 1)
        self._window, cache_mb = whole("window", window, 1), whole("cache_mb", cache_mb, 1)
        max_broken = share("max_broken", max_broken)
        _require_pyarrow()
        roots = [os.fspath(root)] if isinstance(root, (str, PathLike)) else [os.fspath(one) for one in root]
        files, self._test_files = parquet_files(roots, storage)
        self._options = {
            "column": column,
            "label_column": label_column,
            "window": window,
            "cache_mb": cache_mb,
            "min_size": min_size,
            "max_broken": max_broken,
            "storage": storage,
        }
        found, self.left_out = _listed(files, column, label_column, storage, max_broken)
        self._names = _short(list(found))
        self._groups = RowGroups(Ranges(list(found), storage), list(found.values()), cache_mb * 10**6)
        self._ends = np.cumsum(self._groups.rows)
        if not len(self._ends):
            raise UserError(f"data.root: no rows in {told(files[0])}{_and_others(len(files) - 1)}")
        self.labels, self.classes = _labels(found, label_column, classes)
        self._window = self._fitting(self._window, cache_mb)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> bytes:
        """The bytes of an image; raises `BrokenImage` when they are null or can't be read."""
        group, row = self._place(index)
        return self._groups.read(group, row)

    def name(self, index: int) -> str:
        """File and number of the row in it: `train-0.parquet:17`."""
        group, row = self._place(index)
        return f"{self._names[self._groups.files[group]]}:{self._groups.first_row[group] + row}"

    def order(self) -> Order:
        return Windowed(self._groups.rows, self._window)

    def fetch(self, indices: Sequence[int]) -> None:
        self._groups.fetch(np.searchsorted(self._ends, indices, side="right").tolist())

    def test(self) -> ParquetSource | None:
        """The other split; its classes have the numbers they have here."""
        if not self._test_files:
            return None
        return ParquetSource(root=self._test_files, classes=self.classes, **self._options)

    def fingerprint(self) -> str:
        """Names of the files, rows and bytes of their row groups, and how many of these are shuffled together."""
        groups = self._groups
        digest = hashlib.sha256("\n".join(posixpath.basename(name) for name in self._names).encode())
        for array in (groups.files, groups.rows, groups.size, groups.plain_size):
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        return f"parquet:{len(self)}:{self._window}:{digest.hexdigest()[:16]}"

    @property
    def kept_bytes(self) -> int:
        """What this process keeps of what it read."""
        return self._groups.kept_bytes

    def _place(self, index: int) -> tuple[int, int]:
        """Row group and row in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, int(index - self._ends[group] + self._groups.rows[group])

    def _fitting(self, window: int, cache_mb: int) -> int:
        """The window, lowered to what a process can keep."""
        held = np.sort(self._groups.held)[::-1] / 10**6
        total = np.cumsum(held[:window])
        fits = max(1, int(np.searchsorted(total, cache_mb, side="right")))
        slow = held[0] > MOST_TIMES * cache_mb
        if fits >= len(total) and not slow:
            return window
        limit = f"data.cache_mb={cache_mb}{', with which reading in random order is slow' if slow else ''}"
        warnings.warn(
            f"data.window: {fits} instead of {window}: the row groups hold up to {held[0]:.0f} MB, each process keeps "
            f"{limit}; to shuffle further set it to {total[-1] + 1:.0f}, or storage.cache to a folder if the files are "
            "remote, or make shards with `python -m dinotrain.prepare`",
            stacklevel=4,
        )
        return fits


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError("data: reading Parquet files needs pyarrow: pip install 'dinotrain[data]'") from error


def _listed(
    files: Sequence[str], column: str, label_column: str | None, storage: Storage, max_broken: float
) -> tuple[dict[str, Footer], tuple[Skipped, ...]]:
    """Footers of the files that can be read, and the files that can't."""
    ranges = Ranges(files, storage)
    footers: dict[str, Footer | UserError | BrokenImage] = {}
    with ThreadPoolExecutor(_READERS) as pool, progress("Reading Parquet footers", len(files)) as report:
        jobs = {pool.submit(_footer, ranges, number, column, label_column): number for number in range(len(files))}
        for done, job in enumerate(as_completed(jobs), 1):
            footers[files[jobs[job]]] = job.result()
            report(done)
    found = {file: footer for file in files if isinstance(footer := footers[file], Footer)}
    failed = {file: error for file in files if not isinstance(error := footers[file], Footer)}
    if failed:
        file, error = next(iter(failed.items()))
        path = told(file)
        if not found and isinstance(error, UserError):
            raise UserError(f"{error} ({path}{_and_others(len(failed) - 1)})")
        if not found or len(failed) > max(1, max_broken * len(files)):
            limit = f", more than data.max_broken={max_broken:g}" if found else ""
            raise UserError(
                f"data.root: {len(failed)} of {len(files)} Parquet files can't be read{limit}: {path}: {error}"
            )
    if found and label_column not in (None, _LABEL) and all(footer.labels is None for footer in found.values()):
        raise UserError(
            f"data.label_column: no column {label_column!r} in {told(next(iter(found)))} (null for no labels)"
        )
    names = dict(zip(files, _short(files), strict=True))
    return found, tuple(
        Skipped(names[file], str(error).removeprefix("data.column: ")) for file, error in failed.items()
    )


def _footer(ranges: Ranges, number: int, column: str, label_column: str | None) -> Footer | UserError | BrokenImage:
    try:
        return read_footer(ranges, number, column, label_column)
    except (UserError, BrokenImage) as error:
        return error


def _labels(
    footers: dict[str, Footer], column: str | None, known: Sequence[str] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    parts = [footer.labels for footer in footers.values() if footer.labels is not None]
    if not parts:
        return None, None
    without = next((file for file, footer in footers.items() if footer.labels is None), None)
    if without is not None:
        raise UserError(
            f"data.label_column: no column {column!r} in {told(without)}, but in others (null for no labels)"
        )
    names = {footer.label_names for footer in footers.values()}
    return class_numbers(parts, names.pop() if len(names) == 1 else None, known)


def _short(files: Sequence[str]) -> list[str]:
    """Printable paths without what they have in common."""
    parts = [file.partition("?")[0].split("/") for file in files]
    folders = [names[:-1] for names in parts]
    levels = enumerate(zip(*folders, strict=False))
    common = next((depth for depth, names in levels if len(set(names)) > 1), min(map(len, folders)))
    return [printable(os.fsencode("/".join(names[common:]))) for names in parts]


def _and_others(count: int) -> str:
    return f" and {count} more files" if count > 0 else ""
