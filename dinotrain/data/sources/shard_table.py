"""All samples of a set of tar shards, in few arrays."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int64

from dinotrain.data.broken import BrokenImage
from dinotrain.data.paths import PathTable
from dinotrain.data.progress import progress
from dinotrain.data.sources.shard_list import beside, lasting_name, shard_name
from dinotrain.data.sources.tar_headers import ReadAt
from dinotrain.data.sources.tar_index import TarIndex, index_name, scan_tar
from dinotrain.data.storage.read_ahead import ReadAhead
from dinotrain.data.storage.remote import Remote, is_remote
from dinotrain.data.storage.table import cached

_A = TypeVar("_A")
_B = TypeVar("_B")
_VERSION = 1
_CONCURRENT = 16
"""Shards at a time."""


@dataclass(frozen=True)
class ShardTable:
    """The samples of all shards, one shard after another. The arrays may be mapped files."""

    names: PathTable
    """Of the samples, within their shard."""
    offsets: Int64[np.ndarray, "N"]
    sizes: Int64[np.ndarray, "N"]
    labels: Int64[np.ndarray, "N"]
    """-1 throughout a shard some samples of which have none."""
    counts: Int64[np.ndarray, "S"]
    """Samples of each shard; 0 where it can't be read."""
    labelled: Bool[np.ndarray, "S"]
    reasons: PathTable
    """What is wrong with each shard; empty for most of them."""


def shard_table(key: str, shards: Sequence[str], remote: Remote) -> ShardTable:
    """Finds the samples of shards: from the indices beside them, by their headers, or as it was found the last time.

    Args:
        key: what the user calls the set.
        shards: paths or URLs.
        remote: reads those that are URLs.
    """
    scan = _Scan(shards, remote)
    arrays = cached("shards", f"{_VERSION} {key}", scan.build, scan.valid)
    columns = {name: arrays[name] for name in ("offsets", "sizes", "labels", "counts", "labelled")}
    names, reasons = PathTable.from_cache(arrays, "names"), PathTable.from_cache(arrays, "reasons")
    return ShardTable(names=names, reasons=reasons, **columns)


class _Part(NamedTuple):
    """What one shard holds."""

    index: TarIndex
    reason: str = ""
    lasting: bool = True
    """It will be the same the next time, unless the shard is another by then."""


class _State(NamedTuple):
    """What is known of a shard before it is read."""

    stamp: bytes
    """Differs once it is another."""
    size: int
    reason: str = ""
    """Why nothing is known."""


class _Scan:
    """Makes the arrays of all shards; of those that are unchanged, it takes them over from what was stored."""

    def __init__(self, shards: Sequence[str], remote: Remote) -> None:
        self._remote = remote
        self._shards = shards
        with _each(self._state, shards, "Looking at shards") as states:
            self._states = list(states)
        self._fields = {
            **PathTable(os.fsencode(lasting_name(shard)) for shard in shards).for_cache("shards"),
            **PathTable(state.stamp for state in self._states).for_cache("stamps"),
        }
        self._stored: dict[str, np.ndarray] = {}

    def valid(self, arrays: dict[str, np.ndarray]) -> bool:
        """Whether arrays are of these shards as they are now."""
        same = all(np.array_equal(arrays[name], array) for name, array in self._fields.items())
        self._stored = arrays
        return same

    def build(self) -> dict[str, np.ndarray]:
        """The arrays."""
        known = _known(self._stored) if self._stored else {}

        def part(number: int) -> _Part:
            key = os.fsencode(lasting_name(self._shards[number])), self._states[number].stamp
            return known[key]() if key in known else self._scanned(number)

        with _each(part, range(len(self._shards)), "Indexing shards") as found:
            parts = list(found)
        # What may be otherwise the next time is looked at again.
        stamps = (state.stamp if part.lasting else b"?" for state, part in zip(self._states, parts, strict=True))
        return {**self._fields, **PathTable(stamps).for_cache("stamps"), **_joined(parts)}

    def _state(self, shard: str) -> _State:
        try:
            if is_remote(shard):
                size, stamp = self._remote.stat(shard)
            else:
                size, stamp = _local_stat(shard)
        except BrokenImage as broken:
            return _State(broken.reason.encode("utf-8", "backslashreplace"), 0, broken.reason)
        return _State(f"{size};{stamp}".encode("utf-8", "backslashreplace"), size)

    def _scanned(self, number: int) -> _Part:
        shard, state = self._shards[number], self._states[number]
        if state.reason:
            return _Part(_nothing(), state.reason)
        try:
            with self._reader(shard, state.size) as read:
                index, reason = self._index_beside(shard, state.size), None
                if index is None:
                    index, reason = scan_tar(read, state.size)
        except BrokenImage as broken:
            return _Part(_nothing(), broken.reason, lasting=False)
        except OSError as error:
            return _Part(_nothing(), error.strerror or type(error).__name__, lasting=False)
        return _Part(index, reason or ("" if len(index) else "no image in it"))

    @contextmanager
    def _reader(self, shard: str, size: int) -> Iterator[ReadAt]:
        """Reads parts of a shard."""
        if is_remote(shard):
            yield ReadAhead(partial(self._remote.read, shard), size)
            return
        with open(shard, "rb", buffering=0) as file:
            yield lambda start, stop: os.pread(file.fileno(), stop - start, start)

    def _index_beside(self, shard: str, size: int) -> TarIndex | None:
        """The index in a file beside the shard, if there is one that belongs to it."""
        path = beside(shard, index_name(shard_name(shard) if is_remote(shard) else os.path.basename(shard)))
        try:
            index = TarIndex.load(self._remote.read(path) if is_remote(path) else path)
        except (BrokenImage, OSError, ValueError):
            return None
        return index if index.tar_bytes == size else None


def _local_stat(path: str) -> tuple[int, str]:
    """Size and time of change; raises `BrokenImage` where there is no file."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise BrokenImage(error.strerror or type(error).__name__) from error
    if not stat.S_ISREG(info.st_mode):
        raise BrokenImage("is a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file")
    return info.st_size, str(info.st_mtime_ns)


@contextmanager
def _each(action: Callable[[_A], _B], items: Sequence[_A], what: str) -> Iterator[Iterable[_B]]:
    """Results for all items, in their order; some of them are worked on at a time."""
    with progress(what, len(items), "shards") as report, ThreadPoolExecutor(_CONCURRENT) as threads:

        def results() -> Iterator[_B]:
            for number, result in enumerate(threads.map(action, items)):
                report(number + 1)
                yield result

        yield results()


def _known(arrays: dict[str, np.ndarray]) -> dict[tuple[bytes, bytes], Callable[[], _Part]]:
    """By path and stamp, the shards of stored arrays that could be read."""
    shards, stamps, names, reasons = (
        PathTable.from_cache(arrays, name) for name in ("shards", "stamps", "names", "reasons")
    )
    firsts = np.concatenate([[0], np.cumsum(arrays["counts"])])

    def part(number: int) -> _Part:
        first, last = int(firsts[number]), int(firsts[number + 1])
        ends = names.ends[first : last + 1]
        index = TarIndex(
            PathTable.of_arrays(names.block[ends[0] : ends[-1]], ends - ends[0]),
            arrays["offsets"][first:last],
            arrays["sizes"][first:last],
            arrays["labels"][first:last] if arrays["labelled"][number] else None,
            0,
        )
        return _Part(index, reasons[number].decode())

    usable = np.flatnonzero(arrays["counts"]).tolist()
    return {(shards[number], stamps[number]): partial(part, number) for number in usable}


def _joined(parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    """Arrays of all shards, from those of each."""
    indices = [part.index for part in parts]
    counts = np.array([len(index) for index in indices], np.int64)
    lengths = np.array([len(index.names.block) for index in indices], np.int64)
    bases = np.cumsum(lengths) - lengths
    ends = [index.names.ends[1:] + base for index, base in zip(indices, bases, strict=True)]
    labels = [np.full(len(index), -1) if index.labels is None else index.labels for index in indices]
    return {
        **PathTable(part.reason.encode() for part in parts).for_cache("reasons"),
        "counts": counts,
        "labelled": np.array([index.labels is not None for index in indices]),
        "names.block": np.concatenate([index.names.block for index in indices]),
        "names.ends": np.concatenate([np.zeros(1, np.int64), *ends]),
        "offsets": np.concatenate([index.offsets for index in indices]),
        "sizes": np.concatenate([index.sizes for index in indices]),
        "labels": np.concatenate(labels),
    }


def _nothing() -> TarIndex:
    none = np.zeros(0, np.int64)
    return TarIndex(PathTable([]), none, none, None, 0)
