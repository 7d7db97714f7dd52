"""Byte ranges of many files, on disk or remote."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress

from dinotrain.data.broken import BrokenImage
from dinotrain.data.storage.bounded_cache import BoundedCache
from dinotrain.data.storage.remote import Remote, Storage, is_remote

_OPEN_FILES = 64
_TRIES = 3
_PART = 2**23
"""Bytes of one request: parts of a long range come at the same time."""


class Ranges:
    """Reads parts of files by their number. For threads and forked processes.

    Args:
        paths: paths or URLs.
        storage: how those are read that are URLs.
    """

    def __init__(self, paths: Sequence[str], storage: Storage) -> None:
        self.paths = tuple(paths)
        self._cached = storage.cache is not None
        self._remote = Remote(storage) if any(map(is_remote, self.paths)) else None
        self._open: BoundedCache[_Descriptor] = BoundedCache(_OPEN_FILES)

    def __len__(self) -> int:
        return len(self.paths)

    def far(self, number: int) -> bool:
        """Whether every range of this file is asked for over the network."""
        return not self._cached and is_remote(self.paths[number])

    def size(self, number: int) -> int:
        """Bytes of a file. Raises `BrokenImage` if it can't be had."""
        if is_remote(self.paths[number]):
            return self._over_network().size(self.paths[number])
        try:
            info = os.stat(self.paths[number])
        except OSError as error:
            raise _broken(error) from error
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
            raise BrokenImage("not a regular file")
        return info.st_size

    def peek(self, number: int, start: int, stop: int) -> bytes:
        """A range of a file, the whole of which is not wanted in the cache for that.

        Raises:
            BrokenImage: it can't be had, or the file ends before.
        """
        if not is_remote(self.paths[number]):
            return self.read(number, start, stop)
        return _whole(self._over_network().read(self.paths[number], start, stop), start, stop)

    def read(self, number: int, start: int, stop: int) -> bytes:
        """A range of a file; raises `BrokenImage` when it can't be had, or the file ends before."""
        if self.far(number):
            return self.read_many([(number, start, stop)])[0]
        try:
            file = self._open.get(number, lambda: (self._opened(number), 1))
            return _whole(_pread(file.number, start, stop), start, stop)
        except OSError as error:
            raise _broken(error) from error

    def read_many(self, wanted: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Ranges (file, start, stop) of remote files, all at once; raises `BrokenImage` when one can't be had."""
        parts = [
            (self.paths[number], place, min(place + _PART, stop))
            for number, start, stop in wanted
            for place in range(start, stop, _PART)
        ]
        blocks = iter(zip(parts, self._over_network().read_many(parts), strict=True))
        return [b"".join(_part(*next(blocks)) for _ in range(start, stop, _PART)) for _, start, stop in wanted]

    def _opened(self, number: int) -> _Descriptor:
        path = self.paths[number]
        if not is_remote(path):
            return _Descriptor(path)
        for _ in range(_TRIES):
            # Between its download and this moment, other processes may have put other files in its place.
            with suppress(FileNotFoundError):
                return _Descriptor(self._over_network().local(path))
        raise BrokenImage("its copy in storage.cache was removed again at once: storage.cache_gb is too small")

    def _over_network(self) -> Remote:
        assert self._remote is not None
        return self._remote


class RangeFile(io.RawIOBase):
    """A file as pyarrow wants it.

    Args:
        read: reads the bytes from a place up to another; raises `BrokenImage` where it can't.
        size: bytes of the file.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._place = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """From the present place on; `OSError` where the range can't be had."""
        stop = self._size if size is None or size < 0 else min(self._place + size, self._size)
        if stop <= self._place:
            return b""
        try:
            data = self._read(self._place, stop)
        except BrokenImage as broken:
            raise OSError(broken.reason) from broken
        self._place = stop
        return data


class _Descriptor:
    """An open file, closed when no thread uses it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _pread(file: int, start: int, stop: int) -> bytes:
    """One call reads at most 2 GiB."""
    data = os.pread(file, stop - start, start)
    if len(data) == stop - start or not data:
        return data
    parts = [data]
    while (place := start + sum(map(len, parts))) < stop and (data := os.pread(file, stop - place, place)):
        parts.append(data)
    return b"".join(parts)


def _part(asked: tuple[str, int, int], data: bytes | BrokenImage) -> bytes:
    if isinstance(data, BrokenImage):
        raise data
    return _whole(data, *asked[1:])


def _whole(data: bytes, start: int, stop: int) -> bytes:
    if len(data) != stop - start:
        raise BrokenImage(f"the file ends before byte {stop}")
    return data


def _broken(error: OSError) -> BrokenImage:
    return BrokenImage(" ".join(str(error.strerror or error).split()) or type(error).__name__)
