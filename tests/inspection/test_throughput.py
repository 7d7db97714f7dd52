"""Measurements of the input pipeline."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch

from dinotrain.data.augment import Augment
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import MultiCrop
from dinotrain.data.ring import shared_bytes
from dinotrain.data.source import Source
from dinotrain.data.worker import Recipe
from dinotrain.errors import UserError
from dinotrain.inspection.throughput import Measurement, Throughput, recommended, worker_counts


class _Slow(Source):
    """Images that take a while to come; it counts how often each is read."""

    def __init__(self, seconds: float, broken: bool = False) -> None:
        self.seconds, self.broken = seconds, broken
        self.reads = shared_bytes(5000 * 8).view(torch.int64).numpy()

    def __len__(self) -> int:
        return len(self.reads)

    def read(self, index: int) -> np.ndarray:
        if self.broken:
            raise BrokenImage("cut short")
        time.sleep(self.seconds)
        self.reads[index] += 1
        return np.full((20, 20, 3), 100, np.uint8)

    def name(self, index: int) -> str:
        return f"{index}"

    def fingerprint(self) -> str:
        return "slow"


def _throughput(source: Source, seconds: float = 0.3) -> Throughput:
    recipe = Recipe(
        source=source,
        crops=MultiCrop(global_size=16, local_size=8, num_local=1),
        augment=Augment(),
        masks=None,
        seed=0,
        augment_here=False,
    )
    return Throughput(recipe=recipe, batch=4, prefetch=2, seconds=seconds, warn=warnings.warn)


def _found(workers: int, speed: float) -> Measurement:
    return Measurement(workers=workers, images_per_second=speed, processor_ms=None, without_core=None, waiting=None)


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16]), (17, [1, 2, 4, 8, 16, 17])]
)
def test_numbers_of_workers_double_up_to_the_greatest(most: int, counts: list[int]) -> None:
    assert worker_counts(most) == counts


def test_the_fewest_workers_that_are_nearly_as_good_are_recommended() -> None:
    found = [_found(1, 100), _found(2, 190), _found(4, 289), _found(8, 300), _found(16, 270)]
    assert recommended(found).workers == 4
    assert recommended(found[:2]).workers == 2


def test_slow_storage_is_told_from_slow_work() -> None:
    source, ticks = _Slow(0.02), []
    throughput = _throughput(source)
    one, two = (throughput.measure(workers, lambda: ticks.append(1)) for workers in (1, 2))
    assert 5 < one.images_per_second < 50
    assert 1.2 < two.images_per_second / one.images_per_second < 4
    assert ticks
    if one.waiting is not None:
        assert one.waiting > 0.2
        assert one.processor_ms is not None
        assert 0 < one.processor_ms < 20


def test_no_image_is_measured_twice() -> None:
    source = _Slow(0.005)
    throughput = _throughput(source, seconds=0.2)
    for workers in (1, 2, 1):
        throughput.measure(workers, lambda: None)
    assert source.reads.max() == 1


def test_images_that_are_all_broken_are_said_in_one_line() -> None:
    with pytest.raises(UserError, match="in a row can't be read"):
        _throughput(_Slow(0, broken=True)).measure(1, lambda: None)
