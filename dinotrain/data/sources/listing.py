"""A list of image files: text, CSV or Parquet."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import read_file
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.source import Source
from dinotrain.data.sources.list_columns import Columns
from dinotrain.data.sources.list_file import ListFile, place
from dinotrain.data.storage.remote import Remote, Storage, is_remote, shown

_THREADS = 16


class ListSource(Source):
    """The image files named in a list, each by a path or a URL (https://, s3://, ...).

    Its ending says what the list is: `.csv` a table in UTF-8 with a line of column names, `.parquet` the same in
    Parquet, anything else a text file with one path a line, then a tab and its label, if there are labels. The images
    are not looked for until they are read: a missing one is broken. The classes are the different labels, sorted by
    name, or by value where all are whole numbers. What was read is cached until the list changes.

    Args:
        root: the list, a path or a URL.
        base: folder or URL that relative paths start from, by default the one that holds the list.
        path_column: column of a table that holds the paths.
        label_column: column of a table that holds the labels; `label` need not be there. None for no labels.
        min_size: images with a shorter side than this many pixels count as broken.
        storage: how remote files are read; with a cache folder they are kept there.

    Raises:
        UserError: no such list, or something is wrong with it.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        base: str | PathLike[str] | None = None,
        path_column: str = "path",
        label_column: str | None = "label",
        min_size: int = 1,
        storage: Storage | None = None,
    ) -> None:
        if min_size < 1:
            raise ValueError(f"min_size: got {min_size}, must be at least 1")
        self.min_size = min_size
        self._storage = Storage() if storage is None else storage
        self._remote = Remote(self._storage)
        self._fetched: dict[int, dict[int, bytes | BrokenImage]] = {}  # by thread
        file = ListFile(root, Columns(path_column, label_column), self._remote)
        self._base = file.folder if base is None else place(base)
        arrays = file.listing()
        self.paths = PathTable.from_cache(arrays, "paths")
        """What the list says."""
        self._digest = arrays["digest"].tobytes().decode()
        self._has_remote = bool(arrays["remote"][0]) or b"://" in self._base
        if "labels" in arrays:
            self.labels, names = arrays["labels"], PathTable.from_cache(arrays, "classes")
            self.classes = tuple(printable(names[index]) for index in range(len(names)))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """One file; raises `BrokenImage` when it is missing or can't be read."""
        result = self._fetched.get(threading.get_ident(), {}).pop(index, None)
        if result is None:
            result = self._get(index)
        if isinstance(result, BrokenImage):
            raise result
        return result

    def name(self, index: int) -> str:
        """The path as it is listed; of a URL what comes before its query, which may hold a signature."""
        path = printable(self.paths[index])
        try:
            return shown(path) if "://" in path else path
        except ValueError:  # no valid URL
            return path.partition("?")[0]

    def fingerprint(self) -> str:
        return f"list:{len(self)}:{self._digest}"

    def fetch(self, indices: Sequence[int]) -> None:
        """Gets those of these images that are remote, many at a time."""
        if not self._has_remote:
            return
        wanted = [index for index in dict.fromkeys(indices) if is_remote(os.fsdecode(self._file(index)))]
        with ThreadPoolExecutor(_THREADS) as threads:
            self._fetched[threading.get_ident()] = dict(zip(wanted, threads.map(self._get, wanted)))

    def _file(self, index: int) -> bytes:
        """Path or URL of an image."""
        path = self.paths[index]
        if b"://" in path:
            return path.removeprefix(b"file://")
        return os.path.join(self._base, path)

    def _get(self, index: int) -> bytes | BrokenImage:
        file = self._file(index)
        try:
            if b"://" not in file:
                return read_file(file)
            url = os.fsdecode(file)
            return self._remote.read(url) if self._storage.cache is None else self._copy(url)
        except BrokenImage as broken:
            return broken

    def _copy(self, url: str) -> bytes:
        """A remote file by way of the cache folder."""
        path = self._remote.local(url)
        try:
            return read_file(path)
        except BrokenImage:  # removed by another process, which needed the room
            return read_file(self._remote.local(url))
