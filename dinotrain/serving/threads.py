"""Threads that do for requests what would hold up all others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dinotrain.serving.batcher import Stopped

T = TypeVar("T")


class Threads:
    """A number of threads, for use by one event loop.

    Work is given to a thread only once one is free. To cancel it does not free a thread that is still at work, so that
    nothing ever waits in the pool's own queue, which would hold what was given to it longer than it is of use.

    Args:
        count: of them.
        name: that they have.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool, self._free = ThreadPoolExecutor(count, name), asyncio.Semaphore(count)

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Call it in a thread.

        Raises:
            Stopped: after `close`.
        """
        loop = asyncio.get_running_loop()

        def done(future: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before it
                loop.call_soon_threadsafe(self._free.release)

        await self._free.acquire()
        try:
            future = self._pool.submit(work, *given)
        except RuntimeError as error:
            self._free.release()
            raise Stopped from error
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more work; returns at once."""
        self._pool.shutdown(wait=False, cancel_futures=True)
