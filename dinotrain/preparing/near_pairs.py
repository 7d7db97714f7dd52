"""Pairs of hashes that differ in few bits, among millions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from jaxtyping import Int64, UInt64

from dinotrain.preparing.perceptual_hash import HASH_BITS

_WORDS = 4  # parts of a hash that are looked up
_BLOCK = 256  # hashes that are looked up together, of which fewer where they have many in common
_MOST = 2**22  # pairs that are compared at once
_ONES = np.array([bin(word).count("1") for word in range(2**16)], np.uint8)


def near_pairs(hashes: UInt64[np.ndarray, "n"], distance: int) -> Iterator[tuple[int, int, int]]:
    """All pairs within a distance, as (later, earlier, bits in which they differ), in ascending order of `later`.

    Two hashes within d bits of each other are, in one of their four words of 16 bits, within t bits, if the t of the
    words add up to d - 3: only hashes with such a word are compared (multi-index hashing: Norouzi, Punjani and Fleet
    2012, with unequal radii as in Qin et al. 2018). At a distance of 4 and with random hashes that is one in 3,300.

    Args:
        hashes: each of another value. Memory: 16 bytes for each.
        distance: at most so many bits.
    """
    spare = distance - _WORDS + 1
    words = _words(hashes)
    tables = []
    for number in range(_WORDS):
        word = words[:, number]
        order = np.argsort(word, kind="stable").astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(word, minlength=2**16))])
        tables.append((order, starts, _masks(spare // _WORDS + (number < spare % _WORDS))))
    for first in range(0, len(hashes), _BLOCK):
        block = np.arange(first, min(first + _BLOCK, len(hashes)))
        found: set[tuple[int, int, int]] = set()
        for number, (order, starts, masks) in enumerate(tables):
            for mask in masks:
                found.update(_pairs(hashes, block, order, starts, words[block, number] ^ mask, distance))
        yield from sorted(found)


def _pairs(
    hashes: UInt64[np.ndarray, "n"],
    block: Int64[np.ndarray, "b"],
    order: np.ndarray,
    starts: Int64[np.ndarray, "words"],
    values: np.ndarray,
    distance: int,
) -> list[tuple[int, int, int]]:
    """Pairs of the hashes of a block and earlier ones with these values of a word."""
    begins, counts = starts[values], starts[values + 1] - starts[values]
    ends = np.cumsum(counts)
    if ends[-1] > _MOST and len(block) > 1:
        half = len(block) // 2
        parts = ((block[:half], values[:half]), (block[half:], values[half:]))
        return [pair for part in parts for pair in _pairs(hashes, part[0], order, starts, part[1], distance)]
    rows = order[np.repeat(begins - ends + counts, counts) + np.arange(ends[-1])]
    later = np.repeat(block, counts)
    earlier = rows < later
    rows, later = rows[earlier], later[earlier]
    bits = _ONES[_words(hashes[rows] ^ hashes[later])].sum(axis=1, dtype=np.uint8)
    near = bits <= distance
    return list(zip(later[near].tolist(), rows[near].tolist(), bits[near].tolist()))


def _masks(radius: int) -> Int64[np.ndarray, "m"]:
    """All words of 16 bits with at most `radius` ones; none for a radius below 0."""
    chosen = (bits for ones in range(radius + 1) for bits in combinations(range(16), ones))
    return np.array([sum(1 << bit for bit in bits) for bits in chosen], np.int64)


def _words(hashes: UInt64[np.ndarray, "n"]) -> np.ndarray:
    """Words of 16 bits, [n, 4]."""
    return hashes.view(np.uint16).reshape(-1, HASH_BITS // 16)
