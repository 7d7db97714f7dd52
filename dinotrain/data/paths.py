"""Many file paths in little memory."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int64, UInt8


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
        self._block, self._ends = np.frombuffer(block, np.uint8), np.frombuffer(ends, np.int64)

    @classmethod
    def of_arrays(cls, block: UInt8[np.ndarray, "bytes"], ends: Int64[np.ndarray, "ends"]) -> PathTable:
        """The table of these arrays, which may be mapped files and are not copied.

        Args:
            block: all paths one after another.
            ends: 0, then where in the block each path ends.

        Raises:
            ValueError: they don't fit together.
        """
        if not len(ends) or ends[0] != 0 or ends[-1] != len(block):
            raise ValueError(f"ends: must go from 0 to the {len(block)} bytes of the block")
        table = cls.__new__(cls)
        table._block, table._ends = block, ends
        return table

    @classmethod
    def from_cache(cls, arrays: dict[str, np.ndarray], name: str) -> PathTable:
        """The table that `for_cache` turned into arrays under this name."""
        return cls.of_arrays(arrays[f"{name}.block"], arrays[f"{name}.ends"])

    def for_cache(self, name: str) -> dict[str, np.ndarray]:
        """The table as two arrays to be kept, say by `dinotrain.data.storage.table.cached`."""
        return {f"{name}.block": self.block, f"{name}.ends": self.ends}

    @property
    def block(self) -> UInt8[np.ndarray, "bytes"]:
        """All paths one after another."""
        return self._block

    @property
    def ends(self) -> Int64[np.ndarray, "ends"]:
        """0, then where in the block each path ends."""
        return self._ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"index: got {index}, must be in 0..{len(self) - 1}")
        return self._block[self._ends[index] : self._ends[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def digest(self) -> str:
        """Hash of all paths in their order. It reads the whole table: about a second per gigabyte."""
        digest = hashlib.sha256(np.ascontiguousarray(self._block).data)
        digest.update(np.ascontiguousarray(self._ends).data)
        return digest.hexdigest()[:16]


def printable(path: bytes) -> str:
    """A path on one line of valid text; line ends, tabs and bytes that are no UTF-8 are escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
