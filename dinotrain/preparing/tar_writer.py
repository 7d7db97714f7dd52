"""Tar files whose bytes depend on nothing but what is put into them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
RECORD = 20 * BLOCK
"""A tar file's length is a multiple of this (POSIX.1-1988, ustar)."""


class Member(NamedTuple):
    """One file to put into a tar."""

    name: str
    """At most 100 ASCII characters."""
    data: bytes

    @property
    def space(self) -> int:
        """Bytes that it takes in the tar."""
        return BLOCK + -(-len(self.data) // BLOCK) * BLOCK


class TarWriter:
    """Writes a tar file.

    Args:
        path: of the file; one that is there is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "wb", buffering=2**20)  # noqa: SIM115
        self.position = 0
        """Bytes written."""

    def add(self, member: Member) -> int:
        """Append a file; returns where its bytes begin."""
        self._file.write(_header(member))
        self._file.write(member.data)
        self._file.write(bytes(-len(member.data) % BLOCK))
        begin = self.position + BLOCK
        self.position += member.space
        return begin

    def finish(self) -> int:
        """End the file, and wait until it is on the disk; returns its length."""
        length = finished_length(self.position)
        self._file.write(bytes(length - self.position))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return length

    def discard(self) -> None:
        """Remove what has been written, if it still is where it was."""
        with contextlib.suppress(OSError):  # on a full disk, what is in the buffer can't be written
            self._file.close()
        self._path.unlink(missing_ok=True)


def finished_length(position: int) -> int:
    """Length of a tar file whose members take so many bytes: two empty blocks end it, and it fills whole records."""
    return -(-(position + 2 * BLOCK) // RECORD) * RECORD


def _header(member: Member) -> bytes:
    """The block before a file (POSIX.1-1988, ustar): mode 0644, nobody's, made at the beginning of 1970."""
    fields = [
        member.name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % len(member.data) + b"%011o\0" % 0,
    ]
    rest = (b"0" + bytes(100) + b"ustar\0" + b"00").ljust(BLOCK - 156, b"\0")
    start = b"".join(fields)
    # The sum is taken with its own field as blanks.
    checksum = sum(start) + 8 * ord(" ") + sum(rest)
    return start + b"%06o\0 " % checksum + rest
