"""Micro-batches in bytes, made by worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dinotrain.data.batch import Skipped
from dinotrain.data.order import positions
from dinotrain.data.ring import Ring, Slot
from dinotrain.data.worker import Failure, Filled, Recipe, Request, Samples
from dinotrain.errors import UserError

_T = TypeVar("_T")
_HELD = 2
"""Slots beside those that workers fill: one is in use, and one may still be being copied to the device."""


_PATIENCE = 1.0
"""Seconds after which torch looks whether the workers live, when a batch is due."""


class Assembled(NamedTuple):
    """A micro-batch in a slot of the ring: crops in bytes, and the numbers of their photometric augmentation."""

    slot: Slot
    mask_indices: Tensor
    mask_weights: Tensor
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    release: Callable[[torch.cuda.Event | None], None]
    """To be called when all was read, with an event after which it was or with None: the slot is filled anew then."""


class _WorkerDied(Exception):
    pass


class Feed:
    """Iterates over the micro-batches of one process, as workers leave them in a ring of slots.

    A worker that dies is replaced, with all others, and the batches go on where they stopped. One that dies twice over
    the same batch ends the iteration.

    Args:
        recipe: what is made of which samples.
        global_batch, micro_batch, rank, world_size: how the samples of a step are divided.
        workers: number of worker processes; 0 does their work in this one.
        prefetch: batches that each worker prepares in advance.
        pin: lock the ring's memory for copies to a GPU.
        start_step: first step.
        steps: step to stop before; None goes on for ever.
        warn: told in one line of a worker that died.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        workers: int,
        prefetch: int,
        pin: bool = False,
        start_step: int = 0,
        steps: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._recipe, self._workers, self._prefetch, self._warn = recipe, workers, prefetch, warn
        self._images, self._pin = micro_batch, pin
        layout = {"global_batch": global_batch, "micro_batch": micro_batch, "world_size": world_size}
        per_step = global_batch // (micro_batch * world_size)
        self._plan = _Plan(start_step * per_step, None if steps is None else steps * per_step, per_step, rank, layout)

    def __iter__(self) -> Iterator[Assembled]:
        if self._workers:
            self._recipe.source.share()
        ring = self._make_ring()
        batch, death = self._plan.start, None
        while True:
            try:
                for assembled in self._crew(ring, batch):
                    batch += 1
                    yield assembled
                return
            except _WorkerDied as died:
                if death == batch:
                    raise UserError(f"{died}; if memory ran out, take fewer workers") from died
                death = batch
                self._warn(f"{died}; started anew")

    def _make_ring(self) -> Ring:
        crops, masks = self._recipe.crops, self._recipe.masks
        return Ring(
            (self._workers * self._prefetch if self._workers else 1) + _HELD,
            images=self._images,
            global_size=crops.global_size,
            local_size=crops.local_size,
            num_local=crops.num_local,
            num_params=self._recipe.augment.num_params,
            patches=0 if masks is None else masks(np.zeros(1, np.int64)).shape[-1],
            pin=self._pin,
        )

    def _crew(self, ring: Ring, batch: int) -> Iterator[Assembled]:
        """Micro-batches from this one on, until the end or the death of one of the workers that are started for it."""
        samples = Samples(self._recipe, ring, self._workers)
        # A worker survives the SIGTERM that it would get at the end of a process which leaves its batches open.
        kill = partial(_kill, samples)
        atexit.register(kill)
        batches, requested = self._start(samples, ring, batch)
        try:
            while (filled := self._next(batches, samples, bool(requested))) is not None:
                requested.remove(filled.slot)
                yield self._assembled(ring, filled)
        finally:
            del batches  # ends the workers, unless an error that is on its way holds on to it
            kill()
            atexit.unregister(kill)
            for slot in requested:
                ring.give_back(slot)

    def _start(self, samples: Samples, ring: Ring, batch: int) -> tuple[Iterator[Filled | Failure], list[int]]:
        requested: list[int] = []
        on_linux = sys.platform == "linux"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
            loader = DataLoader(
                samples,
                batch_sampler=_Requests(self._plan, batch, ring, requested),
                num_workers=self._workers,
                collate_fn=_unchanged,
                worker_init_fn=samples.start_worker,
                prefetch_factor=self._prefetch if self._workers else None,
                timeout=_PATIENCE if self._workers else 0,
                multiprocessing_context="fork" if self._workers and on_linux else None,
                # With a generator of its own it leaves the random state of the process alone.
                generator=torch.Generator(),
            )
            # Torch would raise the death of a worker anywhere in the main thread; it is noticed when a batch is due.
            handler = signal.getsignal(signal.SIGCHLD)
            batches = iter(loader)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return batches, requested

    def _next(self, batches: Iterator[Filled | Failure], samples: Samples, due: bool) -> Filled | None:
        """The next message of the workers; at the end of all, when none is due, they end."""
        while True:
            try:
                with _deaths_noticed(samples) if self._workers and due else nullcontext():
                    result = next(batches, None)
                break
            except (RuntimeError, OSError, EOFError) as error:
                # A worker hands its own errors over as a Failure, so this should be the end of a worker.
                if self._workers and (_dead(samples) or "DataLoader worker" in str(error)):
                    raise _WorkerDied(_obituary(samples, error)) from error
                if not self._workers or "DataLoader timed out" not in str(error):
                    raise
        if isinstance(result, Failure):
            raise UserError(result.message) if result.for_user else RuntimeError(result.message)
        return result

    def _assembled(self, ring: Ring, filled: Filled) -> Assembled:
        slot = ring.slots[filled.slot]

        def release(after: torch.cuda.Event | None = None) -> None:
            ring.give_back(filled.slot, after)

        return Assembled(
            slot,
            slot.mask_indices[: filled.masked],
            slot.mask_weights[: filled.masked],
            tuple(map(self._recipe.source.name, slot.indices.tolist())),
            filled.skipped,
            release,
        )


def _alive() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def _dead(samples: Samples) -> bool:
    return bool(samples.processes() - _alive())


@contextmanager
def _deaths_noticed(samples: Samples) -> Iterator[None]:
    """Raises when a worker dies meanwhile: one that was killed while it wrote a message leaves a read without end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    armed = [True]

    def notice(number: int, frame: object) -> None:
        if armed[0] and _dead(samples):
            armed[0] = False
            raise RuntimeError("DataLoader worker killed")

    usual = signal.signal(signal.SIGCHLD, notice)
    try:
        try:
            notice(0, None)
            yield
        finally:
            armed[0] = False
    finally:  # of its own, for the signal may come when the first one has just begun
        signal.signal(signal.SIGCHLD, usual if usual is not None else signal.SIG_DFL)


def _obituary(samples: Samples, error: Exception) -> str:
    """Ends the other workers, which may wait for ever for what the dead one held; says what happened."""
    names = ", ".join(samples.in_hand(_alive()))
    _kill(samples)
    cause = str(error).split("\n")[0].strip() or type(error).__name__
    return f"runtime.workers: a data worker died{f' while it read {names}' if names else ''} ({cause})"


def _kill(samples: Samples) -> None:
    """End all workers, and wait until they write no more."""
    workers = [process for process in multiprocessing.active_children() if process.pid in samples.processes()]
    for process in workers:
        process.kill()
    deadline = time.monotonic() + 5
    for process in workers:
        process.join(max(0.0, deadline - time.monotonic()))


class _Plan(NamedTuple):
    """Positions of each micro-batch of one process, in the order of training."""

    start: int
    """Number of the first micro-batch, from the start of training."""
    end: int | None
    per_step: int
    rank: int
    layout: dict[str, int]

    def positions(self, batch: int) -> np.ndarray:
        return positions(*divmod(batch, self.per_step), self.rank, **self.layout)


class _Requests(Sampler):
    """What the workers are told, one micro-batch after another; each takes a slot when it is sent out."""

    def __init__(self, plan: _Plan, batch: int, ring: Ring, requested: list[int]) -> None:
        self._plan, self._batch, self._ring, self._requested = plan, batch, ring, requested

    def __iter__(self) -> Iterator[Request]:
        batch = self._batch
        while self._plan.end is None or batch < self._plan.end:
            slot = self._ring.take()
            self._requested.append(slot)
            yield Request(slot, self._plan.positions(batch))
            batch += 1


def _unchanged(filled: _T) -> _T:
    return filled
