"""Reading parts of tar shards while training."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from dinotrain.data.broken import BrokenImage
from dinotrain.data.storage.ranges import Ranges
from dinotrain.data.storage.remote import Remote, Storage, is_remote

_REST = 60.0
"""Seconds for which a remote shard that failed is not asked again."""
_GAP = 2**16
"""Bytes between two ranges that are rather read than asked for apart."""
_LARGEST = 2**23
"""Bytes of ranges that are read as one."""
_DOWNLOADS = 4
"""Shards at a time."""


class Part(NamedTuple):
    """A range of bytes in a shard."""

    shard: int
    start: int
    stop: int


class ShardFiles:
    """The files of shards. For threads and forked processes.

    Args:
        shards: paths or URLs.
        storage: how those are read that are URLs.
    """

    def __init__(self, shards: Sequence[str], storage: Storage) -> None:
        self._ranges = Ranges(shards, storage)
        self._remote = Remote(storage)
        self._resting: dict[int, tuple[float, str]] = {}
        self._fetched: dict[int, dict[Part, bytes | str]] = {}
        """By thread; where a part could not be had, the reason."""

    def read(self, part: Part) -> bytes:
        """The bytes of a part; those that this thread fetched are there already.

        Raises:
            BrokenImage: they can't be had, or the shard failed a short time ago.
        """
        fetched = self._fetched.get(threading.get_ident(), {}).get(part)
        if isinstance(fetched, bytes):
            return fetched
        if (reason := fetched or self._failure(part.shard)) is not None:
            raise BrokenImage(reason)
        try:
            return self._ranges.read(*part)
        except BrokenImage as broken:
            self._rest(part.shard, broken.reason)
            raise

    def fetch(self, parts: Sequence[Part]) -> None:
        """Gets parts of remote shards, all at once; they stay until this thread fetches others."""
        fetched: dict[Part, bytes | str] = {}
        self._fetched[threading.get_ident()] = fetched
        paths = self._ranges.paths
        asked = [part for part in parts if is_remote(paths[part.shard]) and self._failure(part.shard) is None]
        self._open({part.shard for part in asked if not self._ranges.far(part.shard)})
        runs = list(_runs([part for part in asked if self._ranges.far(part.shard)]))
        wanted = [(paths[run.shard], run.start, run.stop) for run, _ in runs]
        for (run, inside), data in zip(runs, self._remote.read_many(wanted), strict=True):
            if isinstance(data, BrokenImage):
                self._rest(run.shard, data.reason)
                fetched.update((part, data.reason) for part in inside)
            else:
                fetched.update((part, data[part.start - run.start : part.stop - run.start]) for part in inside)

    def _open(self, shards: Collection[int]) -> None:
        """Has copies of shards made, if there are none yet; reading them says what went wrong."""

        def touch(shard: int) -> None:
            with suppress(BrokenImage):
                self.read(Part(shard, 0, 0))

        if shards:
            with ThreadPoolExecutor(_DOWNLOADS) as threads:
                list(threads.map(touch, shards))

    def _rest(self, shard: int, reason: str) -> None:
        """Let a remote shard that failed alone for a while: each of its samples would wait through all retries."""
        if is_remote(self._ranges.paths[shard]):
            self._resting[shard] = time.monotonic() + _REST, reason

    def _failure(self, shard: int) -> str | None:
        """Why a shard is left alone now."""
        until, reason = self._resting.get(shard, (0.0, ""))
        return reason if time.monotonic() < until else None


def _runs(parts: Iterable[Part]) -> Iterator[tuple[Part, list[Part]]]:
    """Parts that lie close to each other, with what to read for them."""
    inside: list[Part] = []
    shard = start = stop = -1
    for part in sorted(set(parts)):
        near = part.shard == shard and part.start <= stop + _GAP and part.stop <= start + _LARGEST
        if inside and not near:
            yield Part(shard, start, stop), inside
        if not near:
            inside, (shard, start, stop) = [], part
        inside.append(part)
        stop = max(stop, part.stop)
    if inside:
        yield Part(shard, start, stop), inside
