"""What passes through the steps of a process: images, waiting, broken samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from dinotrain.data.batch import Batch, Skipped
from dinotrain.distributed.failure import WAITING_FOR_IMAGES
from dinotrain.distributed.world import World


class Window(NamedTuple):
    """What the meter read since it was last restarted."""

    seconds: float
    waited: float
    """Share of the time that this process waited for data, 0 to 1."""
    images_per_second: float
    """Over all processes."""
    skipped: list[Skipped]
    """By all processes."""


class Meter:
    """Counts for all students of a run, which see the same batches."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: list[str] = []
        """Of the samples that this process has used in the present step."""
        self._skipped: list[Skipped] = []
        self.restart()

    def fetch(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """The micro-batches of a step, each when it is asked for; what it takes is the time the step waits for data."""
        self.names = []
        for _ in range(count):
            before = time.monotonic()
            self.world.at(WAITING_FOR_IMAGES)
            batch = next(batches)
            self.world.at("training")
            self._waited += time.monotonic() - before
            self._images += len(batch.names)
            self._skipped += batch.skipped
            self.names += batch.names
            yield batch

    def read(self) -> Window:
        """The window so far; the skipped samples are handed out once. All processes together."""
        seconds = max(time.monotonic() - self._opened, 1e-9)
        skipped = [item for part in self.world.gather(self._skipped) for item in part]
        self._skipped = []
        return Window(seconds, self._waited / seconds, self._images * self.world.size / seconds, skipped)

    def restart(self) -> None:
        """Begin a new window: after a row was logged, and after what does not count as training."""
        self._opened, self._images, self._waited = time.monotonic(), 0, 0.0
