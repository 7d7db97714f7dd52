"""From a source of images to batches on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.data import photometric
from dinotrain.data.batch import Batch
from dinotrain.data.feed import Assembled, Feed
from dinotrain.data.source import Source
from dinotrain.data.worker import Colours, Crops, Masks, Recipe


class Loader:
    """Iterates over the micro-batches of one process, from `start_step` on.

    What a batch holds depends on the seed and the samples' positions alone: neither on the number of workers nor on
    how a step is divided among processes. Images are read and cut in worker processes; flips, colours, blur and
    normalisation are done in one go on the device, or all but the last in the workers. A broken image is replaced by
    another sample, and reported.

    Args:
        source: the images.
        crops: cuts each image into global and local crops.
        augment: draws the numbers of the photometric augmentation.
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
        augment_in_workers: apply the photometric augmentation in the workers; the numbers are the same.
        compile_augment: compile it for the device (only where it is applied there).
        start_step: first step.
        steps: step to stop before; None goes on for ever.
        warn: told in one line of a worker that died and was replaced.
    """

    def __init__(
        self,
        *,
        source: Source,
        crops: Crops,
        augment: Colours,
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
        augment_in_workers: bool = False,
        compile_augment: bool = False,
        start_step: int = 0,
        steps: int | None = None,
        warn: Callable[[str], None] = warnings.warn,
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
        if augment_in_workers and compile_augment:
            raise ValueError("compile_augment: got true, must be false where the workers augment")
        self.micro_batches = global_batch // (micro_batch * world_size)
        """Batches per step."""
        self._device = torch.device(device)
        self._finish = _finisher(tuple(mean), tuple(std), augment_in_workers, compile_augment)
        self._feed = Feed(
            Recipe(
                source=source, crops=crops, augment=augment, masks=masks, seed=seed, augment_here=augment_in_workers
            ),
            global_batch=global_batch,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
            workers=workers,
            prefetch=prefetch,
            pin=self._device.type == "cuda",
            start_step=start_step,
            steps=steps,
            warn=warn,
        )

    def __iter__(self) -> Iterator[Batch]:
        for assembled in self._feed:
            yield self._batch(assembled)

    def _batch(self, assembled: Assembled) -> Batch:
        """Copy to the device and finish there."""
        slot = assembled.slot
        views = len(slot.global_crops)
        batch = Batch(
            global_crops=self._crops(slot.global_crops, slot.params[:views]),
            local_crops=self._crops(slot.local_crops, slot.params[views:]),
            masks=self._copied(slot.masks),
            mask_indices=self._copied(assembled.mask_indices),
            mask_weights=self._copied(assembled.mask_weights),
            names=assembled.names,
            skipped=assembled.skipped,
        )
        copied = None
        if self._device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self._device))
        assembled.release(copied)
        return batch

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True, copy=True)

    def _crops(self, crops: UInt8[Tensor, "V B S S 3"], params: Float[Tensor, "V B P"]) -> Float[Tensor, "V B 3 S S"]:
        # The parameters stay on the host, which decides by them which crops need what.
        flat = crops.flatten(0, 1).to(self._device, non_blocking=True)
        return self._finish(flat, params.flatten(0, 1)).unflatten(0, crops.shape[:2])


Finish = Callable[[Tensor, Tensor], Tensor]
"""From crops in bytes and the numbers of their augmentation to the input of a network."""


def _finisher(mean: tuple[float, ...], std: tuple[float, ...], augmented: bool, compiled: bool) -> Finish:
    if augmented:
        return lambda crops, _: photometric.normalize(crops, mean=mean, std=std)
    if compiled:
        from dinotrain.data.photometric_dense import compiled_augment

        return compiled_augment(mean=mean, std=std)
    return lambda crops, params: photometric.augment(crops, params, mean=mean, std=std)
