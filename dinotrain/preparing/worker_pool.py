"""Images through several processes, in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np
import torch

from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.preparing.conversion import Converted

Task = Callable[[Source, int], Converted]
"""What is done to the image of a source with a number."""

CHUNK_BYTES = 2**22
"""Images are handed to a worker by about as many as this; a single one may be larger."""
BUFFER_BYTES = 2**28
"""Results that wait for an earlier one; no new work is handed out while there are more."""
_MOST = 64  # images of a chunk
_QUEUED = 2  # chunks that a worker has: one in hand and one to go on with

_context = multiprocessing.get_context("fork")  # a source is not sent, but shared


class WorkerPool:
    """Processes that do something to every image; what comes out stands in the order of what went in.

    Args:
        source: read in the workers.
        task: what is done to each image.
        workers: processes.
    """

    def __init__(self, source: Source, task: Task, workers: int) -> None:
        self._source = source
        source.share()
        # Seen by all: the number of the image that each worker is at.
        self._in_hand = np.frombuffer(_context.RawArray("q", [-1] * workers), np.int64)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for number in range(workers):
                self._start(task, number)
        except OSError as error:
            self.__exit__()
            raise UserError(f"workers: can't start {workers} processes ({error.strerror}); expected fewer") from error

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def _start(self, task: Task, number: int) -> None:
        ours, theirs = _context.Pipe()
        self._pipes.append(ours)
        # A worker must not hold these ends, its own and those of others: it would never see that this process is gone.
        arguments = (self._source, task, theirs, tuple(self._pipes), self._in_hand, number)
        process = _context.Process(target=_work, args=arguments, daemon=True, name=f"prepare-{number}")
        with theirs:
            process.start()
        self._processes.append(process)

    def run(self, indices: Iterator[int]) -> Iterator[Converted]:
        """Results for images, one after another.

        Args:
            indices: their numbers in the source.

        Raises:
            UserError: a worker died, or has met something that no other image would mend.
        """
        queued = [0] * len(self._pipes)
        owners: dict[int, int] = {}
        done: dict[int, list[Converted]] = {}
        sent = taken = waiting = 0
        length, ended = 1, False
        while True:
            # The earliest chunk is always handed out already, so that this comes to an end with a full buffer too.
            while not ended and min(queued) < _QUEUED and waiting < BUFFER_BYTES:
                worker = queued.index(min(queued))
                images = list(islice(indices, length))
                if not (ended := not images):
                    self._send(worker, images)
                    queued[worker] += 1
                    owners[sent] = worker
                    sent += 1
            if taken == sent and ended:
                return
            for worker in self._ready():
                chunk = next(number for number in owners if owners[number] == worker)
                done[chunk] = self._receive(worker)
                del owners[chunk]
                queued[worker] -= 1
                waiting += _size(done[chunk])
                length = _next_length(length, done[chunk])
            while taken in done:
                results = deque(done.pop(taken))
                waiting -= _size(results)
                taken += 1
                while results:
                    yield results.popleft()

    def _ready(self) -> list[int]:
        """Workers with something to say, their end included."""
        ready = wait(self._pipes)
        return [number for number, pipe in enumerate(self._pipes) if pipe in ready]

    def _send(self, worker: int, images: list[int]) -> None:
        try:
            self._pipes[worker].send(images)
        except OSError:
            raise UserError(self._obituary(worker)) from None

    def _receive(self, worker: int) -> list[Converted]:
        try:
            message = self._pipes[worker].recv()
        except (EOFError, OSError):
            raise UserError(self._obituary(worker)) from None
        if isinstance(message, BaseException):
            raise message
        return message

    def _obituary(self, worker: int) -> str:
        process = self._processes[worker]
        process.join(timeout=5)
        status = process.exitcode or 0
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        hint = "; too little memory for so many workers?" if status == -signal.SIGKILL else ""
        index = int(self._in_hand[worker])
        name = self._source.name(index) if index >= 0 else "nothing"
        return f"worker {worker} died ({cause}) with {name} in hand{hint}"


def _size(results: Sequence[Converted]) -> int:
    return sum(len(result.data) for result in results)


def _next_length(length: int, results: Sequence[Converted]) -> int:
    """Images of the next chunk, by those of the latest; grows slowly from the first, of which nothing is known yet."""
    space = sum(max(result.bytes_in, len(result.data)) for result in results) / len(results)
    return int(max(1, min(_MOST, 2 * length, CHUNK_BYTES / max(1.0, space))))


def _work(
    source: Source,
    task: Task,
    pipe: Connection,
    others: Sequence[Connection],
    in_hand: np.ndarray,
    number: int,
) -> None:
    """The life of a worker: ends when the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C, the main process takes care
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            images = pipe.recv()
            pipe.send(_answer(source, task, images, in_hand, number))


def _answer(
    source: Source, task: Task, images: Sequence[int], in_hand: np.ndarray, number: int
) -> list[Converted] | Exception:
    """Results of a chunk; or what must end it all."""
    index = -1
    try:
        source.fetch(images)
        results = []
        for index in images:
            in_hand[number] = index
            results.append(task(source, index))
        return results
    except UserError as error:
        return error
    except MemoryError:
        return UserError(f"not enough memory for {source.name(index)}; expected fewer workers, or a machine with more")
    except Exception:
        name = source.name(index) if index >= 0 else "the next images"
        return RuntimeError(f"{name}: {traceback.format_exc()}")
