"""The image files below a folder, found by many threads at once."""

from __future__ import annotations

import os
import stat
import threading
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dinotrain.data.paths import PathTable, printable
from dinotrain.data.progress import progress
from dinotrain.errors import UserError

_THREADS = 16  # on network file systems each request waits long for its answer
_TOLD_EVERY = 4096
_SETTLED_NS = 2 * 10**9
"""A folder that changed less than this before it was read may change again without getting another time."""
_ABSENT = -1


class Tree(NamedTuple):
    """What is below a folder."""

    paths: PathTable
    """Image files, relative to the folder, sorted by each folder's names in bytes."""
    holders: PathTable
    """Folders with images, each as often as it is come back to after one of its sub-folders, in the order of paths."""
    counts: Int64[np.ndarray, "holders"]
    """Number of paths in a row that lie directly in each of these."""
    watched: PathTable
    """Everything a change of which may change the tree: folders, and links to what is no folder so far."""
    stamps: Int64[np.ndarray, "watched"]
    """Their times, to compare with `stamps_of`."""
    settled: bool
    """Whether a later change is sure to show in the stamps."""
    lost: tuple[tuple[bytes, str], ...]
    """Folders that could not be listed, each with the reason."""


def find_images(root: bytes, endings: Sequence[bytes]) -> Tree:
    """Lists the files with these endings (lower case; any case will do in their names) at any depth.

    Hidden files and folders are left out, symbolic links followed, but not to a folder above them.

    Raises:
        UserError: the folder itself can't be listed.
    """
    found: dict[bytes, _Folder] = {}
    with progress("Listing images") as report, ThreadPoolExecutor(_THREADS) as pool:
        scan = partial(_scan, root, tuple(endings), _Teller(report))
        level: Iterable[_Task] = [_Task(b"", ())]
        while folders := list(pool.map(scan, level)):
            found.update((folder.path, folder) for folder in folders)
            level = chain.from_iterable(folder.tasks for folder in folders)
    if reason := found[b""].lost:
        raise UserError(f"data.root: can't list {printable(root)}: {reason}")
    runs = list(_in_order(found))
    sizes = np.concatenate([run.sizes for run in runs]) if runs else np.zeros(0, np.int64)
    block = np.frombuffer(b"".join(run.block for run in runs), np.uint8)
    watched = list(chain.from_iterable(folder.watched for folder in found.values()))
    return Tree(
        paths=PathTable.of_arrays(block, np.concatenate([[0], np.cumsum(sizes)])),
        holders=PathTable(run.folder for run in runs),
        counts=np.array([len(run.sizes) for run in runs], np.int64),
        watched=PathTable(path for path, _ in watched),
        stamps=np.array([stamp for _, stamp in watched], np.int64),
        settled=all(folder.settled for folder in found.values()),
        lost=tuple((folder.path, folder.lost) for folder in found.values() if folder.lost),
    )


def stamps_of(root: bytes, watched: PathTable) -> Int64[np.ndarray, "watched"]:
    """The time in nanoseconds of each folder's last change of any kind; -1 for what is no folder."""
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(partial(_stamps, root, watched), np.array_split(np.arange(len(watched)), _THREADS))
        return np.concatenate(list(parts))


def _stamps(root: bytes, watched: PathTable, indices: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    return np.array([_stamp(os.path.join(root, watched[index])) for index in indices.tolist()], np.int64)


def _stamp(path: bytes) -> int:
    try:
        info = os.stat(path)
    except OSError:
        return _ABSENT
    # Not the time of modification, which unpacked archives and copies set to what it was elsewhere.
    return info.st_ctime_ns if stat.S_ISDIR(info.st_mode) else _ABSENT


class _Task(NamedTuple):
    """A folder to list."""

    path: bytes
    above: tuple[tuple[int, int], ...]
    """Device and inode of the folders above it."""


class _Run(NamedTuple):
    """Image files of one folder in a row."""

    folder: bytes
    block: bytes
    sizes: Int64[np.ndarray, "n"]


class _Folder(NamedTuple):
    """What was found in one folder."""

    path: bytes
    parts: tuple[_Run | bytes, ...] = ()
    """Its files and the paths of its sub-folders, in order."""
    tasks: tuple[_Task, ...] = ()
    watched: tuple[tuple[bytes, int], ...] = ()
    settled: bool = False
    lost: str = ""


class _Names(NamedTuple):
    """What is in a folder."""

    files: list[bytes]
    folders: list[bytes]
    links: list[bytes]
    """To what is neither an image nor a folder, so far."""


class _Teller:
    """Adds up what several threads found."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report, self._lock, self._found = report, threading.Lock(), 0

    def __call__(self, more: int) -> None:
        with self._lock:
            self._found += more
            self._report(self._found)


def _scan(root: bytes, endings: tuple[bytes, ...], tell: Callable[[int], None], task: _Task) -> _Folder:
    """Sub-folders and image files of one folder."""
    path, above = task
    folder = os.path.join(root, path)
    names = _Names([], [], [])
    lost, stamp, settled, here = "", _ABSENT, False, (0, 0)
    try:
        info = os.stat(folder)
        stamp, here = info.st_ctime_ns, (info.st_dev, info.st_ino)
        # File systems that keep no such times give 0.
        settled = 0 < stamp < time.time_ns() - _SETTLED_NS
        if here in above:  # a symbolic link to a folder above it
            return _Folder(path, watched=((path, stamp),), settled=True)
        _read_names(folder, endings, tell, names)
    except OSError as error:
        lost, settled = error.strerror or str(error), False
    for kind in names:
        kind.sort()
    below = tuple(_Task(os.path.join(path, name), (*above, here)) for name in names.folders)
    links = tuple((os.path.join(path, name), _ABSENT) for name in names.links)
    return _Folder(path, tuple(_parts(path, names)), below, ((path, stamp), *links), settled, lost)


def _read_names(folder: bytes, endings: tuple[bytes, ...], tell: Callable[[int], None], names: _Names) -> None:
    """Adds what is in a folder to the names; of an error, what was found before stays."""
    simple = frozenset(endings)
    told = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):
                continue
            if _is_folder(entry):
                names.folders.append(name)
            # Also broken links and other odd things: reading them says what is wrong.
            elif name[name.rfind(b".") :].lower() in simple or name.lower().endswith(endings):
                names.files.append(name)
                if len(names.files) - told == _TOLD_EVERY:
                    told = len(names.files)
                    tell(_TOLD_EVERY)
            elif entry.is_symlink():
                names.links.append(name)
    tell(len(names.files) - told)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def _parts(path: bytes, names: _Names) -> Iterator[_Run | bytes]:
    """Sorted files and sub-folders of a folder in one order."""
    prefix = os.path.join(path, b"")
    places = [bisect(names.files, folder) for folder in names.folders]
    for start, end, folder in zip([0, *places], [*places, len(names.files)], [*names.folders, None]):
        if files := names.files[start:end]:
            sizes = np.fromiter(map(len, files), np.int64, len(files)) + len(prefix)
            yield _Run(path, prefix + prefix.join(files), sizes)
        if folder is not None:
            yield prefix + folder


def _in_order(found: dict[bytes, _Folder]) -> Iterator[_Run]:
    """All files, each folder's in their place among those of the folder above."""
    stack: list[_Run | bytes] = [b""]
    while stack:
        part = stack.pop()
        if isinstance(part, _Run):
            yield part
        else:
            stack += reversed(found[part].parts)
