"""Images of many requests that are asked about together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import pytest
import torch
from torch import Tensor

from dinotrain.serving.batcher import Batcher, ModelFailed, Stopped


class Asked:
    """What a network was asked; it answers with the sum of each image."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, kind: str, pixels: Tensor) -> Sequence[Any]:
        self.free.wait(60)
        self.batches.append((kind, len(pixels)))
        if kind == "fail":
            raise RuntimeError("broken")
        if kind == "memory" and len(pixels) > 1:
            raise torch.OutOfMemoryError("too much")
        return [int(image.sum()) for image in pixels]


def image(value: int) -> Tensor:
    return torch.full((3, 1, 1), value, dtype=torch.uint8)


def batcher(asked: Asked, **more: Any) -> Batcher:
    return Batcher(asked, **{"max_batch": 4, "max_wait_ms": 50, "expected": lambda: 0, **more})


def test_each_gets_its_own_result() -> None:
    asked = Asked()
    asked.free.clear()
    batches = batcher(asked)
    futures = [batches.submit("sum", image(value)) for value in range(11)]
    asked.free.set()
    assert [future.result(60) for future in futures] == [3 * value for value in range(11)]
    assert max(count for _, count in asked.batches) == 4
    batches.close(60)


def test_who_is_alone_does_not_wait() -> None:
    asked = Asked()
    batches = batcher(asked, max_wait_ms=60_000, expected=lambda: 1)
    assert batches.submit("sum", image(1)).result(30) == 3
    batches.close(60)


def test_images_that_are_on_the_way_are_waited_for() -> None:
    asked = Asked()
    batches = batcher(asked, max_wait_ms=60_000, expected=lambda: 3)
    futures = [batches.submit("sum", image(value)) for value in range(3)]
    assert wait(futures, 30).not_done == set()
    assert asked.batches == [("sum", 3)]
    batches.close(60)


def test_kinds_are_not_mixed() -> None:
    asked = Asked()
    batches = batcher(asked, max_wait_ms=60_000, expected=lambda: 3)
    futures = [batches.submit(kind, image(1)) for kind in ("sum", "other", "sum")]
    assert [future.result(30) for future in futures] == [3, 3, 3]
    assert asked.batches == [("sum", 2), ("other", 1)]
    batches.close(60)


def test_what_was_cancelled_is_not_asked() -> None:
    asked = Asked()
    asked.free.clear()
    batches = batcher(asked, max_batch=1)
    first, second, third = (batches.submit("sum", image(value)) for value in range(3))
    while not first.running():
        pass
    assert second.cancel()
    asked.free.set()
    assert third.result(30) == 6
    batches.close(60)
    assert len(asked.batches) == 2


def test_a_failure_does_not_end_it(capfd: pytest.CaptureFixture[str]) -> None:
    batches = batcher(Asked())
    with pytest.raises(ModelFailed):
        batches.submit("fail", image(1)).result(30)
    assert batches.submit("sum", image(1)).result(30) == 3
    assert "RuntimeError: broken" in capfd.readouterr().err
    batches.close(60)


def test_too_little_memory_is_met_with_smaller_batches() -> None:
    asked = Asked()
    batches = batcher(asked, max_wait_ms=60_000, expected=lambda: 4)
    futures = [batches.submit("memory", image(value)) for value in range(4)]
    assert [future.result(30) for future in futures] == [0, 3, 6, 9]
    batches.close(60)


def test_the_end_answers_what_was_taken_and_takes_no_more() -> None:
    asked = Asked()
    asked.free.clear()
    batches = batcher(asked)
    futures = [batches.submit("sum", image(value)) for value in range(9)]
    threading.Timer(0.1, asked.free.set).start()
    batches.close(60)
    assert all(future.done() for future in futures)
    with pytest.raises(Stopped):
        batches.submit("sum", image(1))
