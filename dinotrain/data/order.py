"""Which sample stands at which position of the endless training sequence, and its random numbers.

Everything is a pure function of (seed, position), so that a run may start anywhere, on any number of processes and
workers. An epoch's order is a keyed permutation that is computed place by place: a Feistel network on the next power
of four, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, section 5), so that
shuffling 100 million samples takes no memory.
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


def _key(*numbers: int | np.ndarray) -> UInt64[np.ndarray, "n"]:
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


def _permute(index: np.ndarray, length: int, key: UInt64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Place of each index in the permutation of 0 .. length - 1 that its key names."""
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    key = np.broadcast_to(key, index.shape)
    out = _feistel(index.astype(np.uint64), key, half)
    while (outside := np.flatnonzero(out >= length)).size:
        out[outside] = _feistel(out[outside], key[outside], half)
    return out.astype(np.int64)


def sample_index(position: int | Int64[np.ndarray, "*n"], length: int, seed: int) -> Int64[np.ndarray, "*n"]:
    """Index of the sample at each position: every sample once in each epoch of `length` positions.

    Args:
        position: place in the training sequence, from 0, any shape.
        length: number of samples.
        seed: seed of the run; each epoch of each seed has its own order.
    """
    if length < 1:
        raise ValueError(f"length: got {length}, must be at least 1")
    places = np.asarray(position, np.int64)
    flat = places.reshape(-1)
    return _permute(flat % length, length, _key(seed, flat // length)).reshape(places.shape)


def replacement(position: int, attempt: int, length: int, seed: int) -> int:
    """Index of the sample to use when the one at `position` is broken.

    Args:
        attempt: 1 for the first replacement, and so on; attempts 1 .. length - 1 give every other sample once.
    """
    if not 1 <= attempt < length:
        raise ValueError(f"attempt: got {attempt}, must be in 1..{length - 1} for {length} samples")
    offset = 1 + int(_permute(np.array([attempt - 1]), length - 1, _key(seed, position, length))[0])
    return (int(sample_index(position, length, seed)) + offset) % length


def positions(
    step: int, micro: int, rank: int, *, global_batch: int, micro_batch: int, world_size: int
) -> Int64[np.ndarray, "B"]:
    """Positions of one process's micro-batch.

    A step covers positions step * global_batch onwards; its micro-batches are contiguous blocks of
    world_size * micro_batch positions, of which each process takes its contiguous slice in order of rank.
    """
    start = step * global_batch + (micro * world_size + rank) * micro_batch
    return np.arange(start, start + micro_batch, dtype=np.int64)


def sample_rng(seed: int, position: int, stream: int = 0) -> np.random.Generator:
    """Random numbers of the sample at a position; another `stream` gives others, independent of these."""
    key = np.array([seed % 2**64, position], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64)))
