"""What was found by reading many files once, kept until one of them changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Int64

from dinotrain.data.progress import progress
from dinotrain.data.storage.table import Arrays, cached

_THREADS = 16
_ABSENT = (-1, -1)


def read_once(kind: str, files: Sequence[bytes], read: Callable[[bytes], np.ndarray]) -> list[np.ndarray]:
    """What `read` makes of each file, a one-dimensional array of one type; from the cache where no file has changed.

    Args:
        kind: sort of what is read, a word.
        files: absolute paths.
        read: called in several threads.
    """
    stamps = _stamps(files)

    def build() -> Arrays:
        found = _read_all(kind, files, read)
        ends = np.cumsum([0, *map(len, found)]).astype(np.int64)
        return {"stamps": stamps, "values": np.concatenate([*found]), "ends": ends}

    def valid(arrays: Arrays) -> bool:
        return np.array_equal(arrays["stamps"], stamps)

    arrays = cached(kind, "\0".join(["1", *map(os.fsdecode, files)]), build, valid)
    return np.split(arrays["values"], arrays["ends"][1:-1])


def _read_all(kind: str, files: Sequence[bytes], read: Callable[[bytes], np.ndarray]) -> list[np.ndarray]:
    found = []
    with progress(f"Reading {kind}", len(files)) as report, ThreadPoolExecutor(_THREADS) as pool:
        for result in pool.map(read, files):
            found.append(result)
            report(len(found))
    return found


def _stamps(files: Sequence[bytes]) -> Int64[np.ndarray, "files 2"]:
    """Size and time of the last change of each file."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.array(list(pool.map(partial(_stamp), files, chunksize=256)), np.int64).reshape(-1, 2)


def _stamp(file: bytes) -> tuple[int, int]:
    try:
        info = os.stat(file)
    except OSError:
        return _ABSENT
    return info.st_size, info.st_ctime_ns
