"""Files that are not on a local disk: https://, s3://, gs://, hf:// and whatever else fsspec knows.

    remote = Remote(Storage(retries=4, cache="/scratch/cache"))
    remote.read("s3://bucket/x.tar", 512, 1024)    bytes [512, 1024) of a file; without limits all of it
    remote.read_many([(url, start, stop), ...])    the same for many at once; BrokenImage where one can't be had
    remote.stat(url)                               its size, and text that differs once it changed
    remote.find("s3://bucket/prefix/")             the files of a folder, or those that match a pattern
    remote.local(url)                              path of a copy on this machine, downloaded once

What fails for the moment is tried again; what can't be read raises `BrokenImage` with the reason on one line. All of
it works in threads, and in a process that was forked after its parent used it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from glob import has_magic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

from dinotrain.data.arguments import number, whole
from dinotrain.data.broken import BrokenImage
from dinotrain.data.storage.file_cache import FileCache
from dinotrain.data.storage.file_system import CONCURRENT, file_system
from dinotrain.data.storage.remote_fault import fault
from dinotrain.errors import UserError

_T = TypeVar("_T")
_PIECE = 8 * 2**20
"""Bytes per request when a whole file is downloaded."""
_PIECES = 4
"""Such requests at a time."""
_MOST_NAMES = 100_000
"""Files whose names in the cache are kept in mind."""
_LONGEST_WAIT = 60.0
"""Seconds."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How remote files are read.

    Args:
        retries: attempts after a failure that may pass (time-out, lost connection, server error).
        backoff: seconds before the first of them, doubled each time, with jitter.
        timeout: seconds per request.
        cache: folder that keeps whole remote files; None to read just the parts that are asked for.
        cache_gb: gigabytes (10^9 bytes) that these may take; the least recently used are removed.
        options: passed to fsspec's file system: `anon`, `key`, `secret`, `endpoint_url`, `client_kwargs` ...
    """

    retries: int = 4
    backoff: float = 0.5
    timeout: float = 60.0
    cache: str | None = None
    cache_gb: float = 100.0
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        whole("retries", self.retries, 0, 100)
        number("backoff", self.backoff, 0, 60)
        number("timeout", self.timeout, 0.01)
        number("cache_gb", self.cache_gb, 1e-9)
        if not isinstance(self.options, dict):
            raise ValueError(
                f"options: got a {type(self.options).__name__}, must be keys and values such as anon: true"
            )


class Stat(NamedTuple):
    """What is known of a file before it is read."""

    size: int
    """Bytes."""
    stamp: str
    """Differs once the file is another: etag, time of change, size."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether this names something that is read through fsspec, and not a local file."""
    text = os.fspath(path)
    return "://" in text and not text.startswith("file://")


def shown(url: str) -> str:
    """A URL for messages: without password, and without the query, which may hold a signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Remote:
    """Reads remote files.

    Args:
        storage: how.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._cache = FileCache(folder=storage.cache, limit=int(storage.cache_gb * 1e9)) if storage.cache else None
        self._cached_names: dict[str, tuple[str, int]] = {}

    def read(self, url: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Bytes start..stop of a file, all of it without these.

        Raises:
            BrokenImage: it can't be read.
            UserError: the package for this kind of URL is not installed.
        """
        system = self._system(url)
        if start is not None and start == stop:
            return b""

        def once() -> bytes:
            data = system.cat_file(url, start=start, end=stop, **self._timeout(system))
            if stop is not None and (missing := stop - (start or 0) - len(data)):
                if missing < 0:
                    raise BrokenImage("the server ignores which bytes it is asked for (HTTP range requests)")
                raise ConnectionError(f"cut short: {len(data)} of {len(data) + missing} bytes")
            return data

        return self._patiently(once)

    def read_many(self, ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | BrokenImage]:
        """What `read` returns for each (url, start, stop), many at a time; where it raises, the error."""
        if not ranges:
            return []
        with ThreadPoolExecutor(min(CONCURRENT, len(ranges))) as threads:
            return list(threads.map(self._result, ranges))

    def stat(self, url: str) -> Stat:
        """Size and stamp; raises as `read` does."""
        system = self._system(url)
        info = self._patiently(lambda: system.info(url, **self._timeout(system)))
        if info.get("type") == "directory":
            raise BrokenImage("is a folder")
        if info.get("size") is None:
            raise BrokenImage("the server does not tell its size")
        return Stat(int(info["size"]), ";".join(str(info[key]) for key in _STAMPS if info.get(key) is not None))

    def size(self, url: str) -> int:
        """Bytes; raises as `read` does."""
        return self.stat(url).size

    def stamp(self, url: str) -> str:
        """Text that differs once the file is another; raises as `read` does."""
        return self.stat(url).stamp

    def find(self, url: str) -> list[str]:
        """The files of a folder, those that match a pattern (`*`, `?`, `[...]`), or the one file; sorted.

        Raises:
            UserError: it can't be listed.
        """
        if url.startswith(("http://", "https://")):
            if url.endswith("/") or has_magic(urlsplit(url).path):
                raise UserError(
                    f"data.root: {shown(url)}: files behind HTTP can't be listed; "
                    "name them, with a range such as name-{000000..000123}.tar"
                )
            return [url]
        system = self._system(url)
        try:
            return self._patiently(lambda: _listed(system, url))
        except BrokenImage as broken:
            raise UserError(f"data.root: can't list {shown(url)}: {broken.reason}") from broken

    def local(self, url: str) -> str:
        """Path of a copy in the folder `cache`, which is downloaded once, whichever process asks for it.

        The copy may be removed again when others are asked for: open it at once, and ask again if it is gone.

        Raises:
            BrokenImage: it can't be read.
            UserError: the folder can't be written to, or is too small.
        """
        assert self._cache is not None, "storage.cache is not set"
        if url not in self._cached_names:
            if len(self._cached_names) >= _MOST_NAMES:
                self._cached_names.clear()
            stat = self.stat(url)
            self._cached_names[url] = self._cache.name(url, stat.stamp), stat.size
        name, size = self._cached_names[url]
        return self._cache.path(name, size, lambda first: self._pieces(url, first, size))

    def _pieces(self, url: str, first: int, size: int) -> bytes:
        """The next bytes of a file, from this one on."""
        starts = range(first, min(first + _PIECES * _PIECE, size), _PIECE)
        pieces = self.read_many([(url, start, min(start + _PIECE, size)) for start in starts])
        for piece in pieces:
            if isinstance(piece, BrokenImage):
                raise piece
        return b"".join(pieces)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def _result(self, part: tuple[str, int | None, int | None]) -> bytes | BrokenImage:
        try:
            return self.read(*part)
        except BrokenImage as broken:
            return broken

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """The result of something that may fail for the moment."""
        for attempt in range(self._storage.retries + 1):
            try:
                return action()
            except BrokenImage:
                raise
            except Exception as error:  # each file system has its own
                reason, passing = fault(error, self._storage.timeout)
                if not passing or attempt == self._storage.retries:
                    raise BrokenImage(reason) from error
            wait = min(self._storage.backoff * 2**attempt, _LONGEST_WAIT)
            # Forked workers share the state of `random`: they would all come back at the same time.
            time.sleep(wait * random.SystemRandom().uniform(0.5, 1.5))
        raise AssertionError

    def _timeout(self, system: Any) -> dict[str, float]:
        return {"timeout": self._storage.timeout} if system.async_impl else {}

    def _system(self, url: str) -> Any:
        return file_system(url.partition("://")[0], self._storage.options, timeout=self._storage.timeout)


_STAMPS = ("ETag", "etag", "LastModified", "Last-Modified", "updated", "mtime", "created", "md5Hash", "blob_id", "size")


def _listed(system: Any, url: str) -> list[str]:
    system.invalidate_cache()
    if has_magic(url):
        entries = system.glob(url, detail=True).values()
    elif system.info(url)["type"] == "directory":
        entries = system.ls(url, detail=True)
    else:
        return [url]
    return sorted(system.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file")
