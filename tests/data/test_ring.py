"""The ring: slots that processes share, taken and given back."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from dinotrain.data.ring import Ring, shared_bytes


def _ring(slots: int = 3, **changes: int) -> Ring:
    shape: dict[str, Any] = {
        "images": 4,
        "global_size": 6,
        "local_size": 5,
        "num_local": 3,
        "num_params": 13,
        "patches": 9,
    } | changes
    return Ring(slots, **shape)


def test_slots_have_the_form_of_a_batch_and_share_no_memory() -> None:
    ring = _ring()
    first = ring.slots[0]
    assert first.global_crops.shape == (2, 4, 6, 6, 3)
    assert first.local_crops.shape == (3, 4, 5, 5, 3)
    assert first.params.shape == (5, 4, 13)
    assert first.masks.shape == (2, 4, 9)
    assert first.mask_indices.shape == first.mask_weights.shape == (72,)
    for slot in ring.slots:
        for number, part in enumerate(vars(slot).values()):
            part.fill_(number % 2)
    for slot in ring.slots:
        assert [float(part.float().mean()) for part in vars(slot).values()] == [0, 1, 0, 1, 0, 1, 0]


def test_without_local_crops_and_masks() -> None:
    slot = _ring(num_local=0, patches=0).slots[2]
    assert slot.local_crops.shape == (0, 4, 5, 5, 3)
    assert slot.masks.shape == (2, 4, 0)


def test_a_slot_is_given_out_once() -> None:
    ring = _ring()
    taken = {ring.take() for _ in range(3)}
    assert taken == {0, 1, 2}
    with pytest.raises(IndexError):
        ring.take()
    ring.give_back(1)
    assert ring.take() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_child_writes_the_parent_reads_and_no_file_is_left() -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    memory = shared_bytes(10_000)
    if (child := os.fork()) == 0:
        memory[77] = 5
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert memory[77] == 5
    assert memory.sum() == 5
    assert not os.path.isdir("/dev/shm") or set(os.listdir("/dev/shm")) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_slots_are_taken_again_after_their_copy() -> None:
    ring = _ring(1, images=4)
    pinned = Ring(1, images=512, global_size=224, local_size=8, num_local=0, num_params=13, patches=4, pin=True)
    del ring
    for value in range(5):
        number = pinned.take()
        crops = pinned.slots[number].global_crops
        assert crops.is_pinned()
        crops.fill_(value)
        on_device = crops.to("cuda", non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        pinned.give_back(number, event)
        assert int(on_device.max()) == value == int(on_device.min())
