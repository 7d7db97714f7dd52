"""Room for what is decoded at the same time, by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """A number of pixels; who finds too few of them free waits, and those who come later behind him.

    Args:
        total: of them.
    """

    def __init__(self, total: int) -> None:
        self._total, self._taken = total, 0
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Hold so many within the block; what is larger than all of it is let in alone."""
        # One at a time waits for room, so that small ones do not pass a large one for ever.
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._total)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify()
