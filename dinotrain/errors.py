"""Errors whose message is one line for the person at the keyboard, and the exit statuses that tell failures apart."""

from __future__ import annotations

import errno
from enum import IntEnum

_FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class Status(IntEnum):
    """Exit statuses of the training command; a second Ctrl-C ends it with 130."""

    DONE = 0
    FAILED = 1
    """For good: there is something for the user to put right."""
    USAGE = 2
    FAULT = 70
    """A crash, a hang, a lost machine: may pass when tried again."""
    STOPPED = 75
    """On request: saved, and the same command goes on."""


class UserError(Exception):
    """A mistake the user can put right: the message says what would be right."""


class FaultError(UserError):
    """A machine's fault, which may have passed when the same command is given again."""


def is_full_or_forbidden(error: BaseException) -> bool:
    """Whether writing failed for something that the user has to change, rather than for a fault of the storage."""
    return isinstance(error, OSError) and error.errno in _FULL_OR_FORBIDDEN
