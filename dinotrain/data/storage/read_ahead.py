"""Reading forwards through a remote file in few requests."""

from __future__ import annotations

from collections.abc import Callable

_LEAST, _MOST = 2**16, 2**22
_MANY = 4
"""Reads that one request served, from which on the next one asks for more."""


class ReadAhead:
    """Serves small reads, each behind the one before, from larger ones.

    Where these serve many, they grow; where what is wanted lies far apart, they shrink.

    Args:
        read: gives bytes start..stop of the file.
        size: of the file, bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size = read, size
        self._start, self._data = 0, b""
        self._request, self._served = _LEAST, 0

    def __call__(self, start: int, stop: int) -> bytes:
        """Bytes start..stop, which must lie within the file."""
        if not self._start <= start <= stop <= self._start + len(self._data):
            grown = self._request * 2 if self._served >= _MANY else self._request // 2
            self._request, self._served = min(max(grown, _LEAST), _MOST), 0
            self._start = start
            self._data = self._read(start, min(max(stop, start + self._request), self._size))
        self._served += 1
        return self._data[start - self._start : stop - self._start]
