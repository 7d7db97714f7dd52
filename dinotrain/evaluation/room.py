"""How much a device has room for."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_SHARE = 2
"""Of what is free, one part in so many is taken: the rest is for what is computed with it."""


def room(device: torch.device, processes: int = 1) -> int:
    """Bytes that may be kept on a device.

    Args:
        processes: of this machine, that want as much at the same time; a GPU is one's own.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) // _SHARE
    return _available() // (_SHARE * processes)


def _available() -> int:
    """Bytes of memory that new arrays could have."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
