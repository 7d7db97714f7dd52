"""Keyed permutations that are computed place by place.

A Feistel network on the next power of four, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
domains", 2002, section 5), so that shuffling 100 million samples takes no memory.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 8
_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Finaliser of SplitMix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key_of(*numbers: int | np.ndarray) -> UInt64[np.ndarray, "n"]:
    """One 64-bit key from several numbers (their order matters)."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        word = np.asarray([number % 2**64], np.uint64) if isinstance(number, int) else number.astype(np.uint64)
        key = _mix((key ^ word) + _ODD)
    return key


def _feistel(x: UInt64[np.ndarray, "n"], key: UInt64[np.ndarray, "n"], half: int) -> UInt64[np.ndarray, "n"]:
    """One keyed bijection of 0 .. 4**half - 1 per element."""
    shift, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = x >> shift, x & mask
    for number in range(1, _ROUNDS + 1):
        left, right = right, left ^ (_mix(right + key * np.uint64(2 * number + 1)) & mask)
    return (left << shift) | right


def permute(index: Int64[np.ndarray, "n"], length: int, key: UInt64[np.ndarray, "#n"]) -> Int64[np.ndarray, "n"]:
    """Place of each index in the permutation of 0 .. length - 1 that its key names."""
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    key = np.broadcast_to(key, index.shape)
    out = _feistel(index.astype(np.uint64), key, half)
    while (outside := np.flatnonzero(out >= length)).size:
        out[outside] = _feistel(out[outside], key[outside], half)
    return out.astype(np.int64)
