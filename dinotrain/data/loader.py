"""From a source of images to batches on the device."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dinotrain.data import photometric
from dinotrain.data.batch import Batch
from dinotrain.data.broken import BrokenImage
from dinotrain.data.order import positions
from dinotrain.data.source import Source
from dinotrain.data.worker import Assembled, Crops, Failure, Masks, Samples
from dinotrain.errors import UserError

_T = TypeVar("_T")


class Loader:
    """Iterates over the micro-batches of one process, from `start_step` on.

    What a batch holds depends on the seed and the samples' positions alone: neither on the number of workers nor on
    how a step is divided among processes. Images are read and cut in worker processes, flips, colours, blur and
    normalisation are done in one go on the device. A broken image is replaced by another sample, and reported.

    Args:
        source: the images.
        crops: cuts each image into global and local crops.
        masks: draws the masks by sample position; None for no masks (masks of N = 0 patches).
        global_batch: images per step, over all processes and micro-batches.
        micro_batch: images per process and batch; the step's share of one process must be a multiple of it.
        rank: number of this process.
        world_size: number of processes.
        seed: seed of the run.
        workers: number of worker processes; 0 does their work in this one.
        device: where the batches go.
        prefetch: batches that each worker prepares in advance.
        mean, std: statistics of the colour channels for the normalisation, in 0..1.
        start_step: first step.
        steps: step to stop before; None goes on for ever.
    """

    def __init__(
        self,
        *,
        source: Source,
        crops: Crops,
        masks: Masks | None,
        global_batch: int,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        start_step: int = 0,
        steps: int | None = None,
    ) -> None:
        for name, value, least in (("micro_batch", micro_batch, 1), ("workers", workers, 0), ("prefetch", prefetch, 1)):
            if value < least:
                raise ValueError(f"{name}: got {value}, must be at least {least}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: got {rank}, must be in 0..{world_size - 1}")
        if global_batch < 1 or global_batch % (micro_batch * world_size):
            raise ValueError(
                f"global_batch: got {global_batch}, must be a multiple of micro_batch x world_size = "
                f"{micro_batch} x {world_size}"
            )
        self.micro_batches = global_batch // (micro_batch * world_size)
        """Batches per step."""
        self._device = torch.device(device)
        self._workers, self._prefetch = workers, prefetch
        self._mean, self._std = tuple(mean), tuple(std)
        self._source = source
        self._samples = Samples(source=source, crops=crops, masks=masks, seed=seed, workers=workers)
        layout = {"global_batch": global_batch, "micro_batch": micro_batch, "world_size": world_size}
        self._plan = _Plan(start_step, steps, self.micro_batches, rank, layout)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._start()
        try:
            while (assembled := self._next(batches)) is not None:
                yield self._finish(assembled)
        finally:
            del batches  # ends the workers
            atexit.unregister(self._kill_workers)

    def _start(self) -> Iterator[Assembled | Failure]:
        if self._workers:
            self._warm_up()
            # A worker survives the SIGTERM that it would get at the end of a process which leaves its batches open.
            atexit.register(self._kill_workers)
        on_linux = sys.platform == "linux"
        loader = DataLoader(
            self._samples,
            batch_sampler=self._plan,
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=self._samples.start_worker,
            pin_memory=self._device.type == "cuda",
            prefetch_factor=self._prefetch if self._workers else None,
            multiprocessing_context="fork" if self._workers and on_linux else None,
            # With a generator of its own it leaves the random state of the process alone.
            generator=torch.Generator(),
        )
        # Torch would raise the death of a worker anywhere in the main thread; it is noticed when a batch is due.
        handler = signal.getsignal(signal.SIGCHLD)
        batches = iter(loader)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return batches

    def _warm_up(self) -> None:
        """Read an image, for some sources then read all they hold: better once here than in each worker."""
        try:
            self._source.image(0)
        except BrokenImage:
            return

    def _next(self, batches: Iterator[Assembled | Failure]) -> Assembled | None:
        try:
            result = next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            # A worker hands its own errors over as a Failure, so this is the end of a worker.
            if not self._workers:
                raise
            raise UserError(self._death(error)) from error
        if isinstance(result, Failure):
            raise UserError(result.message) if result.for_user else RuntimeError(result.message)
        return result

    def _death(self, error: Exception) -> str:
        """Ends the other workers, which may wait for ever for what the dead one held; says what happened."""
        alive = {process.pid for process in multiprocessing.active_children()}
        names = ", ".join(self._samples.in_hand(alive))
        self._kill_workers()
        cause = str(error).split("\n")[0].strip() or type(error).__name__
        return (
            f"runtime.workers: a data worker died{f' while it read {names}' if names else ''} ({cause}); "
            "if memory ran out, take fewer workers"
        )

    def _kill_workers(self) -> None:
        workers = self._samples.processes()
        for process in multiprocessing.active_children():
            if process.pid in workers:
                process.kill()

    def _finish(self, assembled: Assembled) -> Batch:
        """Copy to the device and augment there."""
        params = assembled.params
        split = len(assembled.global_crops)
        return Batch(
            global_crops=self._augmented(assembled.global_crops, params[:split]),
            local_crops=self._augmented(assembled.local_crops, params[split:]),
            masks=self._moved(assembled.masks),
            mask_indices=self._moved(assembled.mask_indices),
            mask_weights=self._moved(assembled.mask_weights),
            names=assembled.names,
            skipped=assembled.skipped,
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _augmented(
        self, crops: UInt8[Tensor, "V B S S 3"], params: Float[Tensor, "V B P"]
    ) -> Float[Tensor, "V B 3 S S"]:
        # The parameters stay on the host, which decides by them which crops need what.
        flat, rows = self._moved(crops.flatten(0, 1)), params.flatten(0, 1)
        return photometric.augment(flat, rows, mean=self._mean, std=self._std).unflatten(0, crops.shape[:2])


class _Plan(Sampler):
    """Positions of each micro-batch of one process, in the order of training."""

    def __init__(self, start: int, steps: int | None, micro_batches: int, rank: int, layout: dict[str, int]) -> None:
        self._start, self._steps, self._micro_batches = start, steps, micro_batches
        self._rank, self._layout = rank, layout

    def __iter__(self) -> Iterator[Int64[np.ndarray, "B"]]:
        step = self._start
        while self._steps is None or step < self._steps:
            for micro in range(self._micro_batches):
                yield positions(step, micro, self._rank, **self._layout)
            step += 1


def _unchanged(assembled: _T) -> _T:
    return assembled
