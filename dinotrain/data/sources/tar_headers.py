"""The members of a tar archive, found by their headers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

ReadAt = Callable[[int, int], bytes]
"""Bytes start..stop of the archive, which lie within it."""

_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders, pipes: whatever size they state, nothing follows."""
_LONGEST_EXTENSION = 2**20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Member(NamedTuple):
    """A regular file in an archive."""

    name: bytes
    offset: int
    """Of its content in the archive, bytes."""
    size: int
    """Bytes."""


class TarDamage(Exception):
    """Where an archive can't be read any further; the message is the reason, on one line."""


def members(read: ReadAt, tar_bytes: int) -> Iterator[Member]:
    """The regular files of an archive in the formats ustar, GNU and PAX, in their order.

    Args:
        read: gives its bytes.
        tar_bytes: its size.

    Raises:
        TarDamage: at the place where something is wrong: it is cut short, damaged, no archive, or compressed.
    """
    position, name, size = 0, None, None
    while True:
        header = _header(read, position, tar_bytes)
        if header is None:
            return
        kind, length = header[156:157], _number(header[124:136], position)
        content = position + _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            text = _extension(read, content, length, tar_bytes)
            if kind == _LONG_NAME:
                name = text.split(b"\0")[0]
            elif kind == _PAX:
                name, size = _pax(text, name, size)
            position = content + _padded(length)
            continue
        length = 0 if kind in _WITHOUT_CONTENT else length if size is None else size
        if content + length > tar_bytes:
            raise TarDamage(f"cut short at byte {tar_bytes}, within a file that ends at byte {content + length}")
        if kind == _SPARSE:
            raise TarDamage(f"holds a sparse file at byte {position}, which is not supported")
        if kind in _REGULAR:
            yield Member(_own_name(header) if name is None else name, content, length)
        position, name, size = content + _padded(length), None, None


def _header(read: ReadAt, position: int, tar_bytes: int) -> bytes | None:
    """The header at a position, None for the mark of the end."""
    if position + _BLOCK > tar_bytes:
        if position == 0:
            raise TarDamage("empty file" if tar_bytes == 0 else "not a tar archive")
        raise TarDamage(f"cut short at byte {tar_bytes}: the mark of its end is missing")
    block = read(position, position + _BLOCK)
    if block.count(0) == _BLOCK:
        return None
    if not _is_header(block):
        raise TarDamage(f"damaged at byte {position}: no header of a file there" if position else _stranger(block))
    return block


def _is_header(block: bytes) -> bool:
    """Whether its checksum is right, the field of which counts as spaces."""
    digits = block[148:156].strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]+", digits):
        return False
    total, stated = sum(block) - sum(block[148:156]) + 8 * 32, int(digits, 8)
    # Some old writers summed signed bytes.
    return stated == total or stated == total - 256 * sum(byte > 127 for byte in block)


def _stranger(start: bytes) -> str:
    """What a file is that is no archive."""
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"compressed by {name}, which allows no access by position: unpack it (or see dinotrain.prepare)"
    return "not a tar archive"


def _number(digits: bytes, position: int) -> int:
    """A size: octal digits, or (GNU) big-endian behind the byte 0x80."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    digits = digits.strip(b"\0 ")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise TarDamage(f"damaged at byte {position}: a size that is no number")
    return int(digits or b"0", 8)


def _extension(read: ReadAt, start: int, length: int, tar_bytes: int) -> bytes:
    """Content of a header that says more about the next one."""
    if start + length > tar_bytes:
        raise TarDamage(f"cut short at byte {tar_bytes}, within a header")
    if length > _LONGEST_EXTENSION:
        raise TarDamage(f"damaged at byte {start}: a header of {length} bytes")
    return read(start, start + length)


def _pax(text: bytes, name: bytes | None, size: int | None) -> tuple[bytes | None, int | None]:
    """Name and size as PAX records tell them (`length key=value newline`), else as they are."""
    while text:
        length, _, rest = text.partition(b" ")
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(text):
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            name = value.rstrip(b"\0")
        elif key == b"size" and value.isdigit():
            size = int(value)
        text = text[int(length) :]
    return name, size


def _own_name(header: bytes) -> bytes:
    """Name in the header itself; ustar splits long ones. (GNU's old format has something else there.)"""
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
