"""How the C library deals with memory that is freed."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_MOST_PER_BLOCK = 32 * 2**20  # the greatest threshold that it takes
_MOST_KEPT = 128 * 2**20


def keep_freed_memory() -> None:
    """Let this process use the memory of one decoded image for the next.

    By default the GNU C library gives blocks of many megabytes back to the system as soon as they are freed, and
    every page of the next image is then cleared and mapped anew, which may take longer than to decode it. Up to 128 MB
    are kept. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MOST_PER_BLOCK)
    mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
