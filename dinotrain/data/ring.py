"""Memory that data workers write micro-batches to."""

from __future__ import annotations

import mmap
import sys
import warnings
import weakref
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

_ALIGNMENT = 64  # bytes


def shared_bytes(size: int) -> UInt8[Tensor, "n"]:
    """Zeros that forked processes see each other write to.

    They have no name, so that nothing is left behind whoever is killed, and no part in the size limit of /dev/shm,
    which containers often keep small.
    """
    if sys.platform != "linux":
        return torch.zeros(size, dtype=torch.uint8).share_memory_()
    return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)[:size]


@dataclass(frozen=True)
class Slot:
    """Room for one micro-batch of B images: V views of N patches, two of them global crops."""

    global_crops: UInt8[Tensor, "2 B S S 3"]
    local_crops: UInt8[Tensor, "L B s s 3"]
    params: Float[Tensor, "V B P"]
    masks: Bool[Tensor, "2 B N"]
    mask_indices: Int64[Tensor, "2*B*N"]
    """The first ones count; how many, tells whoever filled the slot. The weights likewise."""
    mask_weights: Float[Tensor, "2*B*N"]
    indices: Int64[Tensor, "B"]
    """Number of each sample in its source."""


class Ring:
    """Slots that are allocated once, pinned for copies to a GPU if so wished, and used again and again.

    A slot is taken before a worker is told to fill it, and given back when its content was used: at once, or with an
    event on a CUDA stream after which it is.

    Args:
        slots: how many.
        images: B, images per micro-batch.
        global_size, local_size: side of the crops in pixels.
        num_local: L, number of local crops.
        num_params: P, numbers per crop.
        patches: N, patches of a global crop that masks are drawn for.
        pin: lock the memory in place for asynchronous copies to a GPU.
    """

    def __init__(
        self,
        slots: int,
        *,
        images: int,
        global_size: int,
        local_size: int,
        num_local: int,
        num_params: int,
        patches: int,
        pin: bool = False,
    ) -> None:
        fields = {
            "global_crops": ((2, images, global_size, global_size, 3), torch.uint8),
            "local_crops": ((num_local, images, local_size, local_size, 3), torch.uint8),
            "params": ((2 + num_local, images, num_params), torch.float32),
            "masks": ((2, images, patches), torch.bool),
            "mask_indices": ((2 * images * patches,), torch.int64),
            "mask_weights": ((2 * images * patches,), torch.float32),
            "indices": ((images,), torch.int64),
        }
        sizes = [-(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for shape, dtype in fields.values()]
        memory = shared_bytes(slots * sum(sizes))
        if pin:
            _pin(self, memory)
        self.slots = tuple(_slot(part, fields, sizes) for part in memory.view(slots, -1).unbind())
        self._free = list(range(slots))
        self._used: list[tuple[int, torch.cuda.Event]] = []

    def take(self) -> int:
        """Number of a slot that is free, waiting for the oldest copy from one if need be."""
        while self._used and (not self._free or self._used[0][1].query()):
            number, event = self._used.pop(0)
            event.synchronize()
            self._free.append(number)
        return self._free.pop()

    def give_back(self, number: int, after: torch.cuda.Event | None = None) -> None:
        """Free a slot, at once or after an event."""
        assert number not in self._free
        if after is None:
            self._free.append(number)
        else:
            self._used.append((number, after))


def _slot(part: UInt8[Tensor, "n"], fields: dict[str, tuple], sizes: list[int]) -> Slot:
    parts = part.split(sizes)
    return Slot(
        **{
            name: piece[: prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for (name, (shape, dtype)), piece in zip(fields.items(), parts)
        }
    )


def _pin(owner: Ring, memory: UInt8[Tensor, "n"]) -> None:
    """Register memory with CUDA for as long as its owner lives; without that, copies from it are slower."""
    cuda = torch.cuda.cudart()
    assert cuda is not None
    if error := int(cuda.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)):
        gigabytes = memory.numel() / 1e9
        warnings.warn(
            f"runtime.prefetch: {gigabytes:.1f} GB of host memory can't be pinned (error {error})", stacklevel=3
        )
    else:
        weakref.finalize(owner, cuda.cudaHostUnregister, memory.data_ptr())
