"""What a data worker does: it assembles micro-batches from samples."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.masks import mask_fields
from dinotrain.data.order import sample_rng
from dinotrain.data.source import Source
from dinotrain.errors import UserError

_MOST_ATTEMPTS = 32
_GRACE_SECONDS = 30


@runtime_checkable
class Crops(Protocol):
    """What cuts the crops: `dinotrain.data.crops.MultiCrop`."""

    global_size: int
    local_size: int
    num_local: int
    num_params: int

    def into(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        rng: np.random.Generator,
        global_out: UInt8[Tensor, "2 S S 3"],
        local_out: UInt8[Tensor, "L s s 3"],
        params_out: Float[Tensor, "V P"],
    ) -> None: ...


@runtime_checkable
class Masks(Protocol):
    """What draws the masks: `dinotrain.data.masks.MaskSampler`."""

    def __call__(self, positions: Int64[np.ndarray, "B"]) -> Bool[np.ndarray, "2 B N"]: ...


@dataclass(frozen=True)
class Assembled:
    """A micro-batch as it comes from a worker: crops in bytes, and the numbers of their photometric augmentation."""

    global_crops: UInt8[Tensor, "2 B S S 3"]
    local_crops: UInt8[Tensor, "L B s s 3"]
    params: Float[Tensor, "V B P"]
    masks: Bool[Tensor, "2 B N"]
    mask_indices: Int64[Tensor, "M"]
    mask_weights: Float[Tensor, "M"]
    names: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def pin_memory(self) -> Assembled:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return replace(self, **{name: value.pin_memory() for name, value in values if isinstance(value, Tensor)})


@dataclass(frozen=True)
class Failure:
    """What went wrong in a worker: for the user, or (with a traceback) for a developer."""

    message: str
    for_user: bool


class Samples(Dataset):
    """Micro-batches by their samples' positions, for use in a worker or in the main process."""

    def __init__(self, *, source: Source, crops: Crops, masks: Masks | None, seed: int, workers: int) -> None:
        self._source, self._crops, self._masks, self._seed = source, crops, masks, seed
        self._order = source.order()
        self._in_hand = torch.full((max(1, workers), 2), -1).share_memory_()

    def start_worker(self, number: int) -> None:
        """First thing in each worker: leave it to the main process to end the run. (Torch sets it to one thread.)"""
        self._in_hand[number] = torch.tensor([os.getpid(), -1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end_soon)

    def __getitems__(self, batch: Int64[np.ndarray, "B"]) -> Assembled | Failure:
        worker = get_worker_info()
        in_hand = self._in_hand[worker.id if worker else 0].numpy()
        try:
            return self._assemble(batch, in_hand)
        except UserError as error:
            return Failure(str(error), for_user=True)
        except Exception as error:
            name = self._source.name(int(in_hand[1])) if in_hand[1] >= 0 else "masks"
            return Failure(f"{name}: {type(error).__name__}: {error}\n\n{traceback.format_exc()}", for_user=False)
        finally:
            in_hand[1] = -1

    def processes(self) -> set[int | None]:
        """Process numbers of the workers."""
        return set(self._in_hand[:, 0].tolist())

    def in_hand(self, alive: Container[int | None]) -> list[str]:
        """Names of the samples that workers were busy with whose process numbers are not among those alive."""
        lost = [index for process, index in self._in_hand.tolist() if index >= 0 and process not in alive]
        return [self._source.name(index) for index in lost]

    def _assemble(self, batch: Int64[np.ndarray, "B"], in_hand: Int64[np.ndarray, "2"]) -> Assembled:
        crops, size, seed = self._crops, len(batch), self._seed
        globals_ = torch.empty(2, size, crops.global_size, crops.global_size, 3, dtype=torch.uint8)
        locals_ = torch.empty(crops.num_local, size, crops.local_size, crops.local_size, 3, dtype=torch.uint8)
        params = torch.empty(2 + crops.num_local, size, crops.num_params)
        names: list[str] = []
        skipped: list[Skipped] = []
        masks = self._draw_masks(batch)
        indices = self._order(batch, seed)
        for slot, (position, index) in enumerate(zip(batch.tolist(), indices.tolist(), strict=True)):
            in_hand[1] = index
            image = self._read(position, in_hand, skipped)
            crops.into(image, sample_rng(seed, position), globals_[:, slot], locals_[:, slot], params[:, slot])
            names.append(self._source.name(int(in_hand[1])))
        mask_indices, mask_weights = mask_fields(masks)
        return Assembled(
            global_crops=globals_,
            local_crops=locals_,
            params=params,
            masks=torch.from_numpy(masks),
            mask_indices=torch.from_numpy(mask_indices),
            mask_weights=torch.from_numpy(mask_weights),
            names=tuple(names),
            skipped=tuple(skipped),
        )

    def _draw_masks(self, batch: Int64[np.ndarray, "B"]) -> Bool[np.ndarray, "2 B N"]:
        return np.zeros((2, len(batch), 0), bool) if self._masks is None else self._masks(batch)

    def _read(
        self, position: int, in_hand: Int64[np.ndarray, "2"], skipped: list[Skipped]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The sample in hand, or its first readable replacement, which then is the one in hand."""
        tried = 0
        for index in chain([int(in_hand[1])], islice(self._order.replacements(position, self._seed), _MOST_ATTEMPTS)):
            in_hand[1], tried = index, tried + 1
            try:
                return self._source.image(index)
            except BrokenImage as broken:
                skipped.append(Skipped(self._source.name(index), broken.reason))
        raise UserError(
            f"data.root: {tried} images in a row can't be read (the last: {skipped[-1].name}: {skipped[-1].reason})"
        )


def _end_soon(signal_number: int, frame: object) -> None:
    """SIGTERM often goes to all processes of a job: the main one needs batches yet to finish its step."""
    signal.alarm(_GRACE_SECONDS)
