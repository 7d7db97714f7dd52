"""Many file paths in little memory."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np


class PathTable:
    """File paths as one block of bytes with offsets.

    Millions of strings in each worker would cost gigabytes, for counting references alone copies the pages that a
    forked process shares. Paths are bytes, as the file system has them: a name need not be valid UTF-8.
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        block, ends = bytearray(), array("q", [0])
        for path in paths:
            block += path
            ends.append(len(block))
        self._block = bytes(block)
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        return self._block[self._ends[index] : self._ends[index + 1]]

    def digest(self) -> str:
        """Hash of all paths in their order."""
        return hashlib.sha256(self._block + self._ends.tobytes()).hexdigest()[:16]


def printable(path: bytes) -> str:
    """A path on one line of valid text; line ends, tabs and bytes that are no UTF-8 are escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
