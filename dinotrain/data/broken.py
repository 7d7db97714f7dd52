"""An image that can't be read."""

from __future__ import annotations


class BrokenImage(Exception):
    """An image that can't be read; the message is the reason, on one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
