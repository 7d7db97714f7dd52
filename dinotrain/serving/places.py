"""Places for what is being worked on, of which there are so many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Full(Exception):
    """There are not enough free places."""


class Places:
    """A number of places; for use by one thread, but `taken` may be read by all.

    Args:
        total: of them.
    """

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0

    @contextmanager
    def held(self, count: int = 1) -> Iterator[None]:
        """Hold so many within the block.

        Raises:
            Full: if there are not as many.
        """
        if self.taken + count > self.total:
            raise Full
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
