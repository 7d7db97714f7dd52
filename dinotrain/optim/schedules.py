"""Schedules: pure functions from a step to a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """`start` to `end` over `steps` by half a cosine, after a linear warm-up.

    The warm-up runs from `warmup_start` to `start` including both ends: its last step and the first of the cosine both
    have the peak value. At and after `steps` the value is `end`.
    """

    start: float
    end: float
    steps: int
    warmup: int = 0
    warmup_start: float = 0.0

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.end
        if step < self.warmup:
            return _linear(self.warmup_start, self.start, step, self.warmup)
        phase = math.pi * (step - self.warmup) / (self.steps - self.warmup)
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(phase))


@dataclass(frozen=True)
class Warmup:
    """`start` to `end` linearly over `steps` steps including both ends, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.end if step >= self.steps else _linear(self.start, self.end, step, self.steps)


@dataclass(frozen=True)
class Delayed:
    """0 before step `until`, then what `schedule` says."""

    schedule: Callable[[int], float]
    until: int

    def __call__(self, step: int) -> float:
        return 0.0 if step < self.until else self.schedule(step)


def _linear(start: float, end: float, index: int, count: int) -> float:
    """Point `index` of `count` evenly spaced ones from `start` to `end`."""
    return start if count == 1 else start + (end - start) * index / (count - 1)
