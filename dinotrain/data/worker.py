"""What a data worker does: it fills slots with micro-batches of samples."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dinotrain.data import photometric
from dinotrain.data.allocator import keep_freed_memory
from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import crop_places
from dinotrain.data.images import Admits
from dinotrain.data.masks import mask_fields
from dinotrain.data.order import sample_rng
from dinotrain.data.orphan import end_with_parent
from dinotrain.data.ring import Ring, Slot, shared_bytes
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

    def draw(self, rng: np.random.Generator) -> Float64[np.ndarray, "tries V draws"]: ...

    def admits(self, draws: Float64[np.ndarray, "tries V draws"], height: int, width: int) -> bool: ...

    def fill(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        draws: Float64[np.ndarray, "tries V draws"],
        places: Sequence[UInt8[Tensor, "1 3 _ _"]],
    ) -> None: ...


@runtime_checkable
class Colours(Protocol):
    """What draws the photometric augmentation: `dinotrain.data.augment.Augment`."""

    num_params: int

    def draw(self, rng: np.random.Generator, num_local: int) -> Float64[np.ndarray, "V D"]: ...

    def table(self, draws: Float64[np.ndarray, "*B V D"]) -> Float32[np.ndarray, "*B V P"]: ...


@runtime_checkable
class Masks(Protocol):
    """What draws the masks: `dinotrain.data.masks.MaskSampler`."""

    def __call__(self, positions: Int64[np.ndarray, "B"]) -> Bool[np.ndarray, "2 B N"]: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a sample becomes crops and masks."""

    source: Source
    crops: Crops
    augment: Colours
    masks: Masks | None
    seed: int
    augment_here: bool
    """Whether flip, colours, blur and solarize are applied in the worker, and not only drawn."""


class Request(NamedTuple):
    """A slot to fill with the samples at these positions."""

    slot: int
    positions: Int64[np.ndarray, "B"]


class Filled(NamedTuple):
    """What a worker says of a slot it filled; the rest is in the slot."""

    slot: int
    masked: int
    """Number of masked patches."""
    skipped: tuple[Skipped, ...]


class Failure(NamedTuple):
    """What went wrong in a worker: for the user, or (with a traceback) for a developer."""

    message: str
    for_user: bool


class Samples(Dataset):
    """Fills slots of a ring on request, in a worker or in the main process."""

    def __init__(self, recipe: Recipe, ring: Ring, workers: int) -> None:
        self._recipe, self._source, self._ring = recipe, recipe.source, ring
        self._order = recipe.source.order()
        # The system ends them with the thread that started them, which only of the main one is the process's end.
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._parent = os.getpid() if in_main_thread else None
        self._known_places: dict[tuple[int, int], list[Tensor]] = {}
        self._in_hand = shared_bytes(max(1, workers) * 16).view(torch.int64).view(-1, 2).fill_(-1)

    def start_worker(self, number: int) -> None:
        """First thing in each worker: leave it to the main process to end the run. (Torch sets it to one thread.)"""
        self._in_hand[number] = torch.tensor([os.getpid(), -1])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end_soon)
        keep_freed_memory()
        if self._parent is not None:
            end_with_parent(self._parent)

    def __getitems__(self, request: Request) -> Filled | Failure:
        worker = get_worker_info()
        in_hand = self._in_hand[worker.id if worker else 0].numpy()
        try:
            return self._fill(request, in_hand)
        except UserError as error:
            return Failure(str(error), for_user=True)
        except Exception as error:
            name = self._source.name(int(in_hand[1])) if in_hand[1] >= 0 else "masks"
            return Failure(f"{name}: {type(error).__name__}: {error}\n\n{traceback.format_exc()}", for_user=False)
        finally:
            in_hand[1] = -1

    def processes(self) -> set[int]:
        """Process numbers of the workers that have started."""
        return set(self._in_hand[:, 0].tolist()) - {-1}

    def in_hand(self, alive: Container[int | None]) -> list[str]:
        """Names of the samples that workers were busy with whose process numbers are not among those alive."""
        lost = [index for process, index in self._in_hand.tolist() if index >= 0 and process not in alive]
        return [self._source.name(index) for index in lost]

    def _fill(self, request: Request, in_hand: Int64[np.ndarray, "2"]) -> Filled:
        slot, positions = self._ring.slots[request.slot], request.positions
        masked = self._draw_masks(positions, slot)
        indices = self._order(positions, self._recipe.seed).tolist()
        in_hand[1] = indices[0]
        self._source.fetch(indices)
        skipped: list[Skipped] = []
        colours: list[np.ndarray] = []
        for place, (position, index) in enumerate(zip(positions.tolist(), indices, strict=True)):
            in_hand[1] = index
            rng = sample_rng(self._recipe.seed, position)
            draws = self._recipe.crops.draw(rng)
            colours.append(self._recipe.augment.draw(rng, self._recipe.crops.num_local))
            image = self._read(position, in_hand, skipped, partial(self._recipe.crops.admits, draws))
            self._recipe.crops.fill(image, draws, self._places(request.slot, place))
            slot.indices[place] = int(in_hand[1])
        table = self._recipe.augment.table(np.stack(colours, axis=0))
        slot.params.copy_(torch.from_numpy(table).transpose(0, 1))
        if self._recipe.augment_here:
            views = len(slot.global_crops)
            photometric.levels_into(slot.global_crops.flatten(0, 1), slot.params[:views].flatten(0, 1))
            photometric.levels_into(slot.local_crops.flatten(0, 1), slot.params[views:].flatten(0, 1))
        return Filled(request.slot, masked, tuple(skipped))

    def _places(self, number: int, place: int) -> list[UInt8[Tensor, "1 3 _ _"]]:
        """Where the crops of a sample go; the same views every time a slot is filled."""
        key = number, place
        if key not in self._known_places:
            slot = self._ring.slots[number]
            self._known_places[key] = crop_places(slot.global_crops[:, place], slot.local_crops[:, place])
        return self._known_places[key]

    def _draw_masks(self, positions: Int64[np.ndarray, "B"], slot: Slot) -> int:
        """Masks of a micro-batch into its slot; returns the number of masked patches."""
        if self._recipe.masks is None:
            return 0
        masks = self._recipe.masks(positions)
        indices, weights = mask_fields(masks)
        slot.masks.copy_(torch.from_numpy(masks))
        slot.mask_indices[: len(indices)] = torch.from_numpy(indices)
        slot.mask_weights[: len(weights)] = torch.from_numpy(weights)
        return len(indices)

    def _read(
        self, position: int, in_hand: Int64[np.ndarray, "2"], skipped: list[Skipped], admits: Admits
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The sample in hand, or its first readable replacement, which then is the one in hand."""
        tried = 0
        others = islice(self._order.replacements(position, self._recipe.seed), _MOST_ATTEMPTS)
        for index in chain([int(in_hand[1])], others):
            in_hand[1], tried = index, tried + 1
            try:
                return self._source.image(index, admits)
            except BrokenImage as broken:
                skipped.append(Skipped(self._source.name(index), broken.reason))
        raise UserError(
            f"data.root: {tried} images in a row can't be read (the last: {skipped[-1].name}: {skipped[-1].reason})"
        )


def _end_soon(signal_number: int, frame: object) -> None:
    """SIGTERM often goes to all processes of a job: the main one needs batches yet to finish its step."""
    signal.alarm(_GRACE_SECONDS)
