"""Reading images in threads, ahead of what is computed from them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from dinotrain.data.broken import BrokenImage

T = TypeVar("T")

AHEAD = 2
"""Batches that are read while one is computed."""
MOST_THREADS = 16


def read_batches(
    load: Callable[[int], T],
    batches: Iterable[Sequence[int]],
    *,
    threads: int | None = None,
    fetch: Callable[[Sequence[int]], object] = lambda part: None,
) -> Iterator[list[T | None]]:
    """What `load` makes of every number, batch by batch, in order; None where an image can't be read.

    Args:
        load: called in threads; other errors than `BrokenImage` are raised here.
        batches: of whatever numbers `load` takes.
        threads: None for one per core, at most `MOST_THREADS`.
        fetch: told of what a thread is about to read, in that thread, see `Source.fetch`.
    """

    def attempt(number: int) -> T | None:
        try:
            return load(number)
        except BrokenImage:
            return None

    def read(part: list[int]) -> list[T | None]:
        # What a source fetches is for the thread that asked for it.
        fetch(part)
        return [attempt(number) for number in part]

    threads = threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[list[T | None]]]] = deque()
        try:
            for batch in batches:
                waiting.append([pool.submit(read, part) for part in _parts(batch, threads)])
                if len(waiting) > AHEAD:
                    yield [item for future in waiting.popleft() for item in future.result()]
            while waiting:
                yield [item for future in waiting.popleft() for item in future.result()]
        finally:
            for future in (future for batch in waiting for future in batch):
                future.cancel()


def _parts(batch: Sequence[int], count: int) -> list[list[int]]:
    """A batch in so many pieces of about the same size, none of them empty."""
    ends = [len(batch) * part // count for part in range(count + 1)]
    return [[int(number) for number in batch[start:end]] for start, end in pairwise(ends) if end > start]
