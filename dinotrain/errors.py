"""Errors whose message is written for the person at the keyboard: one line that says what, where and what helps."""

from __future__ import annotations

import errno

_FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """A mistake the user can put right: the message says what would be right."""


class FaultError(UserError):
    """A machine's fault, which may have passed when the same command is given again."""


def is_full_or_forbidden(error: BaseException) -> bool:
    """Whether writing failed for something that the user has to change, rather than for a fault of the storage."""
    return isinstance(error, OSError) and error.errno in _FULL_OR_FORBIDDEN
