"""An image that is not taken."""

from __future__ import annotations

from enum import Enum


class Why(Enum):
    """What kind of mistake it is."""

    BROKEN = "broken"
    """Not an image, or a damaged one."""
    TOO_LARGE = "too large"
    NOT_ALLOWED = "not allowed"
    UNREACHABLE = "unreachable"
    """Its URL gave none in time."""


class Refused(Exception):
    """An image that is not taken.

    The message is for whoever sent it: one line that shows nothing of this machine, and of what was sent no more than
    a few characters.
    """

    def __init__(self, reason: str, why: Why = Why.BROKEN) -> None:
        super().__init__(reason)
        self.reason, self.why = reason, why
