"""Whole copies of remote files on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dinotrain.errors import UserError

_ABANDONED = 3600.0
"""Seconds without a byte after which nobody goes on with a download."""


class FileCache:
    """A folder of files, of which the least recently used are removed when it grows too large.

    Several processes may use it. A file is there under its name once it is whole.

    Args:
        folder: where; made if it isn't there.
        limit: bytes that the files may take.
    """

    def __init__(self, *, folder: str, limit: int) -> None:
        self._folder = os.path.abspath(os.path.expanduser(folder))
        self._limit = limit

    def name(self, url: str, stamp: str) -> str:
        """File name for the copy of one state of a remote file."""
        return hashlib.sha256(f"{url}\0{stamp}".encode("utf-8", "surrogateescape")).hexdigest()[:40]

    def path(self, name: str, size: int, download: Callable[[int], bytes]) -> str:
        """Path of a file, which one process downloads while the others wait.

        Args:
            name: as `name` makes it.
            size: bytes that the file has.
            download: returns the next bytes of the file, from the one with this number on, at least one.

        Raises:
            UserError: the folder can't be written to, or is too small.
        """
        if size > self._limit:
            raise UserError(f"storage.cache_gb: {self._limit / 1e9:g} GB are too few for a file of {size / 1e9:.3g} GB")
        path = os.path.join(self._folder, name)
        try:
            if not self._touch(path, size):
                os.makedirs(self._folder, exist_ok=True)
                with self._lock(f"{name}.lock"):
                    if not self._touch(path, size):
                        self._download(path, size, download)
            return path
        except OSError as error:
            raise UserError(f"storage.cache: can't write to {self._folder}: {error.strerror or error}") from error

    def _touch(self, path: str, size: int) -> bool:
        """Marks a file as used now; False when it isn't there, or not whole."""
        try:
            os.utime(path)
            return os.path.getsize(path) == size
        except FileNotFoundError:
            return False

    def _download(self, path: str, size: int, download: Callable[[int], bytes]) -> None:
        part = f"{path}.part"
        self._make_room(part, size)
        with open(part, "r+b") as file:
            while file.tell() < size:
                file.write(download(file.tell()))
            file.flush()
            os.fsync(file.fileno())
        if os.path.getsize(part) != size:
            raise OSError(f"{part} has {os.path.getsize(part)} bytes, not {size}")
        os.replace(part, path)

    def _make_room(self, part: str, size: int) -> None:
        """Removes files until one of this size fits in, and puts it there, without content."""
        with self._lock("room.lock"):
            with open(part, "wb"):
                pass
            files = sorted(self._files())
            excess = sum(used for _, used, _ in files) + size - self._limit
            for last_use, used, path in files:
                if excess <= 0:
                    break
                if not path.endswith(".part") or time.time() - last_use > _ABANDONED:
                    os.unlink(path)
                    excess -= used
            os.truncate(part, size)

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """(time of last use, bytes, path) of all files, also of those that are being downloaded."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not entry.name.endswith(".lock"):
                    try:
                        info = entry.stat()
                    except FileNotFoundError:  # a download that became whole
                        continue
                    yield info.st_mtime, info.st_size, entry.path

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Held by one process, or thread, at a time."""
        with open(os.path.join(self._folder, name), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # A process that was forked meanwhile has the file open too: closing it would not do.
                fcntl.flock(file, fcntl.LOCK_UN)
