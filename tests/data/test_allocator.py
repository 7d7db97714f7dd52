"""Freed memory: it is used again, instead of being fetched anew from the system."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from dinotrain.data.allocator import keep_freed_memory

_PROGRAM = """
import resource, sys
import numpy as np
from dinotrain.data.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
faults = []
for _ in range(20):
    np.ones(20 * 2**20, np.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[4])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")
def test_pages_are_mapped_once() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", _PROGRAM, mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 20 * 2**20 // resource.getpagesize()
    assert faults("kept") < pages / 4


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory()
