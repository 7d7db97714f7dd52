"""The images that are named on a command line: files, folders, URLs, and base64 on standard input."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import EXTENSIONS, read_file
from dinotrain.data.paths import printable
from dinotrain.intake.encoded import from_base64
from dinotrain.intake.entry import is_url
from dinotrain.intake.fetch import Fetcher
from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import too_many_bytes
from dinotrain.intake.refused import Refused, Why

STDIN = "-"
_PIECE = 2**16
_ENDINGS = tuple(extension.encode() for extension in EXTENSIONS)


class Named(NamedTuple):
    """An image that can be read."""

    name: str
    """Printable, on one line."""
    read: Callable[[], bytes]
    """Raises `Refused`."""


def named_images(words: Iterable[str], *, limits: Limits, fetcher: Fetcher, stdin: int = 0) -> Iterator[Named]:
    """All images of these words, one after another as they are found: of folders those at any depth, by name.

    Args:
        words: files, folders, URLs, or "-" for lines of base64 on standard input.
        stdin: its descriptor.
    """
    for word in words:
        if word == STDIN:
            yield from _lines(limits, stdin)
        elif is_url(word):
            yield Named(printable(os.fsencode(word)), partial(fetcher.fetch, word, limits))
        else:
            path = os.fsencode(os.path.expanduser(word))
            if os.path.isdir(path):
                yield from _below(path, limits)
            else:
                yield Named(printable(path), partial(_file, path, limits))


def _file(path: bytes, limits: Limits) -> bytes:
    try:
        if os.path.getsize(path) > limits.bytes:
            raise too_many_bytes(limits)
        return read_file(path)
    except BrokenImage as error:
        raise Refused(error.reason, Why.UNREACHABLE) from error
    except OSError as error:
        raise Refused((error.strerror or "it can't be read").lower(), Why.UNREACHABLE) from error


def _below(root: bytes, limits: Limits) -> Iterator[Named]:
    """Files that are called images; hidden ones are left out, links are followed, but not in circles."""
    lost: list[OSError] = []
    seen: set[tuple[int, int]] = set()
    any_image = False
    for folder, folders, files in os.walk(root, onerror=lost.append, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        for name in sorted(files):
            if name.lower().endswith(_ENDINGS) and not name.startswith(b"."):
                any_image = True
                path = os.path.join(folder, name)
                yield Named(printable(path), partial(_file, path, limits))
    for error in lost:
        place = os.fsencode(error.filename) if error.filename is not None else root
        yield Named(printable(place), partial(_fail, f"the folder can't be listed ({error.strerror})"))
    if not any_image and not lost:
        yield Named(printable(root), partial(_fail, "no images in this folder"))


def _fail(reason: str) -> bytes:
    raise Refused(reason, Why.UNREACHABLE)


def _lines(limits: Limits, stdin: int) -> Iterator[Named]:
    """Lines of base64; empty ones are left out, but counted."""
    for number, line in enumerate(_split(stdin, 2 * limits.bytes + _PIECE), start=1):
        if line is None or line.strip():
            yield Named(f"line {number}", partial(_decoded, line, limits))


def _decoded(line: bytes | None, limits: Limits) -> bytes:
    if line is None:
        raise too_many_bytes(limits)
    return from_base64(line.decode("ascii", "replace"), limits)


def _split(stdin: int, longest: int) -> Iterator[bytes | None]:
    """Lines as they come; None for one that is too long to be kept.

    Not through `sys.stdin`: a thread that waits in it keeps Python from ending.
    """
    pieces: list[bytes] = []
    length = 0
    while piece := os.read(stdin, _PIECE):
        *ended, rest = piece.split(b"\n")
        for end in ended:
            yield b"".join([*pieces, end]) if length + len(end) <= longest else None
            pieces, length = [], 0
        length += len(rest)
        pieces = [*pieces, rest] if length <= longest else []
    if length:
        yield b"".join(pieces) if length <= longest else None
