"""Answers to a stream of images, in its order, as they come."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import decode
from dinotrain.intake.refused import Refused
from dinotrain.predicting.images import Named

WAIT_SECONDS = 0.05
"""For more images, before a batch that is not full is computed."""
_AHEAD = 2
"""Batches that are read while one is computed."""

_END_SECONDS = 2.0


class Answered(NamedTuple):
    """What is known of one image."""

    name: str
    row: Float[Tensor, "_"] | None
    """Of what the network said; None where the image can't be read."""
    note: str | None = None
    error: str | None = None


class _Ready(NamedTuple):
    pixels: UInt8[Tensor, "3 S S"]
    note: str | None


_Read = tuple[str, "Future[_Ready | Refused]"]
Prepare = Callable[..., UInt8[Tensor, "3 S S"]]


def answers(
    images: Iterable[Named],
    *,
    ask: Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B _"]],
    prepare: Prepare,
    limits: Limits,
    batch: int,
    threads: int,
) -> Iterator[Answered]:
    """An answer for each image.

    Args:
        images: looked for in a thread, and read in others; an error of it is raised here.
        ask: the network, about a batch.
        prepare: from a picture to its input.
        batch: most images that are asked about at once; fewer where no more are at hand.
    """
    reader = _Reader(images, prepare=prepare, limits=limits, ahead=(_AHEAD + 1) * batch, threads=threads)
    try:
        more = True
        while more:
            part, more = reader.next(batch)
            yield from _answer(part, ask)
    finally:
        reader.close()


class _Reader:
    """Images that are looked for, and read, in threads, ahead of who takes them.

    These are daemons, not a pool: one that waits for standard input, or a host, must not keep the process from ending.
    """

    def __init__(self, images: Iterable[Named], *, prepare: Prepare, limits: Limits, ahead: int, threads: int) -> None:
        self._images, self._prepare, self._limits = images, prepare, limits
        self._waiting: queue.Queue[_Read | BaseException | None] = queue.Queue(maxsize=ahead)
        self._tasks: queue.SimpleQueue[tuple[Named, Future[_Ready | Refused]] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()
        self._readers = [threading.Thread(target=self._read, name="read", daemon=True) for _ in range(threads)]
        for reader in self._readers:
            reader.start()

    def next(self, most: int) -> tuple[list[_Read], bool]:
        """The next images, and whether there may be more after them."""
        part: list[_Read] = []
        while len(part) < most:
            try:
                item = self._waiting.get(timeout=WAIT_SECONDS if part else None)
            except queue.Empty:
                break
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return part, False
            part.append(item)
        return part, True

    def close(self) -> None:
        """Look and read no further."""
        self._ended.set()
        for _ in self._readers:
            self._tasks.put(None)
        # The end of Python aborts the process where it meets a thread in compiled code; those that wait are no matter.
        until = time.monotonic() + _END_SECONDS
        for reader in self._readers:
            reader.join(max(until - time.monotonic(), 0))

    def _look(self) -> None:
        try:
            for named in self._images:
                if self._ended.is_set():
                    return
                future: Future[_Ready | Refused] = Future()
                self._tasks.put((named, future))
                self._put((named.name, future))
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Read | BaseException | None) -> None:
        while not self._ended.is_set():
            try:
                self._waiting.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def _read(self) -> None:
        while (task := self._tasks.get()) is not None and not self._ended.is_set():
            named, future = task
            try:
                picture = decode(named.read(), self._limits)
                future.set_result(_Ready(self._prepare(picture.pixels), picture.note))
            except Refused as refused:
                future.set_result(refused)
            except BaseException as error:
                future.set_exception(error)


def _answer(part: list[_Read], ask: Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B _"]]) -> Iterator[Answered]:
    found = [(name, future.result()) for name, future in part]
    ready = [result.pixels for _, result in found if isinstance(result, _Ready)]
    rows = iter(ask(torch.stack(ready)) if ready else ())
    for name, result in found:
        if isinstance(result, Refused):
            yield Answered(name, None, error=result.reason)
        elif (row := next(rows)).isfinite().all():
            yield Answered(name, row, note=result.note)
        else:
            yield Answered(name, None, error="the network's numbers for it are not finite; precision=fp32 may help")
