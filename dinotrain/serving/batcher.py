"""Images of many requests, asked about together."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

Ask = Callable[[str, UInt8[Tensor, "B 3 _ _"]], Sequence[Any]]


class Stopped(Exception):
    """No more images are taken."""


class ModelFailed(Exception):
    """The network failed; what it said is in the server's own log."""


class _Job(NamedTuple):
    kind: str
    pixels: UInt8[Tensor, "3 _ _"]
    future: Future[Any]


class Batcher:
    """A thread that asks the network, which no other thread does.

    It waits for a batch to fill up only as long as there are images on the way, so that who is alone does not wait.

    Args:
        ask: from a kind of question, and images of one size, to a result for each.
        max_batch: most images that are asked about at once.
        max_wait_ms: longest that the first image of a batch waits for others.
        expected: how many images there are on the way, those that were submitted among them; called in the thread.
        observe: told the size of every batch, in the thread.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        max_batch: int,
        max_wait_ms: float,
        expected: Callable[[], int],
        observe: Callable[[int], object] = lambda images: None,
    ) -> None:
        self._ask, self._max_batch, self._wait, self._expected = ask, max_batch, max_wait_ms / 1000, expected
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._open = True
        self.failures = 0
        """Batches in a row, up to the last, of which the network has failed; other threads may read it."""
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, kind: str, pixels: UInt8[Tensor, "3 _ _"]) -> Future[Any]:
        """Ask about one image. A future that is cancelled before its batch begins takes no place in it.

        Raises:
            Stopped: after `close`.
        """
        future: Future[Any] = Future()
        with self._changed:
            if not self._open:
                raise Stopped
            self._jobs.append(_Job(kind, pixels, future))
            self._changed.notify()
        return future

    def close(self, seconds: float) -> None:
        """Take no more images; returns when those that were taken are answered, or this time is over."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            kinds = dict.fromkeys(job.kind for job in jobs)
            for part in ([job for job in jobs if job.kind == kind] for kind in kinds):
                self._answer(part)

    def _next(self) -> list[_Job] | None:
        """The next batch; None if there will be none."""
        with self._changed:
            while not self._jobs:
                if not self._open:
                    return None
                self._changed.wait()
            end = time.monotonic() + self._wait
            while self._open and len(self._jobs) < min(self._max_batch, self._expected()):
                if (left := end - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            picked = [self._jobs.popleft() for _ in range(min(self._max_batch, len(self._jobs)))]
        return [job for job in picked if job.future.set_running_or_notify_cancel()]

    def _answer(self, jobs: Sequence[_Job]) -> None:
        try:
            self._observe(len(jobs))
            rows = self._ask(jobs[0].kind, torch.stack([job.pixels for job in jobs]))
        except torch.OutOfMemoryError:
            if len(jobs) > 1:
                # Another program may have taken of the GPU's memory; half as many may fit.
                self._answer(jobs[: len(jobs) // 2])
                self._answer(jobs[len(jobs) // 2 :])
                return
            self._fail(jobs)
        except Exception:
            self._fail(jobs)
        else:
            self.failures = 0
            for job, row in zip(jobs, rows, strict=True):
                job.future.set_result(row)

    def _fail(self, jobs: Sequence[_Job]) -> None:
        """Whatever it was, the next batch may do well."""
        self.failures += 1
        traceback.print_exc(file=sys.stderr)
        for job in jobs:
            job.future.set_exception(ModelFailed())
