"""Images per second through the input pipeline, by number of workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from dinotrain.data.feed import Assembled, Feed
from dinotrain.data.worker import Recipe

ENOUGH = 0.95
"""Share of the best throughput that is as good."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What so many workers achieve."""

    workers: int
    images_per_second: float
    processor_ms: float | None
    """Processor time of the workers per image, in milliseconds; None where the system does not tell, as are these:"""
    without_core: float | None
    """Share of the workers' time in which they could have worked, but other processes had the cores."""
    waiting: float | None
    """Share of their time in which they waited for data."""


@dataclass(kw_only=True)
class Throughput:
    """Measures a recipe with one number of workers after another, always on the images that come next.

    What was read before is in the memory of the system, and would seem to come faster.

    Args:
        recipe: what is made of which samples.
        batch: images per batch.
        prefetch: batches that each worker prepares in advance.
        seconds: least time of a measurement, without its start.
        warn: told in one line of a worker that died.
    """

    recipe: Recipe
    batch: int
    prefetch: int
    seconds: float
    warn: Callable[[str], None]
    _next: int = field(default=0, init=False)
    """First batch that no worker has been asked for."""

    def measure(self, workers: int, report: Callable[[], None]) -> Measurement:
        """Measure; `report` is called now and then.

        Raises:
            UserError: too many images in a row can't be read, or workers die again and again.
        """
        feed = Feed(
            self.recipe,
            global_batch=self.batch,
            micro_batch=self.batch,
            rank=0,
            world_size=1,
            workers=workers,
            prefetch=self.prefetch,
            start_step=self._next,
            warn=self.warn,
        )
        # The workers take turns: only after as many batches as workers has each done the same.
        with closing(_released(feed)) as batches:
            self._round(batches, workers)
            processes = [process.pid for process in multiprocessing.active_children() if process.pid]
            start, before, rounds = time.perf_counter(), _spent(processes), 0
            while time.perf_counter() - start < self.seconds or not rounds:
                self._round(batches, workers)
                rounds += 1
                report()
            elapsed, after = time.perf_counter() - start, _spent(processes)
        self._next += workers * self.prefetch
        return _measurement(workers, rounds * workers * self.batch, elapsed, before, after)

    def _round(self, batches: Iterator[Assembled], workers: int) -> None:
        for _ in range(workers):
            next(batches)
            self._next += 1


def _released(feed: Feed) -> Generator[Assembled]:
    """Batches that are used the moment they come."""
    for assembled in feed:
        assembled.release(None)
        yield assembled


def worker_counts(most: int) -> list[int]:
    """1, 2, 4 and so on, and the greatest itself."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def recommended(measurements: Sequence[Measurement]) -> Measurement:
    """The one with the fewest workers that is nearly as good as the best."""
    best = max(found.images_per_second for found in measurements)
    enough = [found for found in measurements if found.images_per_second >= ENOUGH * best]
    return min(enough, key=lambda found: found.workers)


class _Spent(NamedTuple):
    """Time of some processes so far, all their threads together, in seconds."""

    working: float
    queued: float
    """Ready to work, without a core."""


def _spent(processes: Sequence[int]) -> _Spent | None:
    """None where the system does not tell."""
    total = [0, 0]
    try:
        for process in processes:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                    total = [before + int(more) for before, more in zip(total, file.read().split())]
    except OSError:  # no Linux, or a thread that has just ended
        return None
    return _Spent(total[0] / 1e9, total[1] / 1e9) if total[0] else None


def _measurement(workers: int, images: int, elapsed: float, before: _Spent | None, after: _Spent | None) -> Measurement:
    processor_ms = without_core = waiting = None
    if before is not None and after is not None:
        working, queued = after.working - before.working, after.queued - before.queued
        processor_ms = 1000 * working / images
        without_core = min(queued / (elapsed * workers), 1.0)
        waiting = max(0.0, 1 - (working + queued) / (elapsed * workers))
    return Measurement(
        workers=workers,
        images_per_second=images / elapsed,
        processor_ms=processor_ms,
        without_core=without_core,
        waiting=waiting,
    )
