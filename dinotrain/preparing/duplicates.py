"""Which bytes have been seen before, for millions of images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

RECENT = 2**14
"""Digests that are held apart until they are sorted in with the others."""


class Match(NamedTuple):
    """The image that is kept in the stead of another."""

    index: int
    """Its number in the source."""
    distance: int
    """Bits in which the two hashes differ; 0 also for the same bytes."""
    exact: bool


class DigestTable:
    """Numbers of 64 bits with an owner each: sorted arrays, and a dictionary of those that came last.

    Memory: 16 MB per million.
    """

    def __init__(self) -> None:
        self._digests = np.empty(0, np.uint64)
        self._owners = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def find(self, digest: int) -> int | None:
        """Its owner; None if it is not there."""
        owner = self._recent.get(digest)
        if owner is None and len(self._digests):
            place = int(np.searchsorted(self._digests, np.uint64(digest)))
            if place < len(self._digests) and self._digests[place] == np.uint64(digest):
                owner = int(self._owners[place])
        return owner

    def add(self, digest: int, owner: int) -> None:
        """Of numbers that are added twice, the first owner stays."""
        self._recent.setdefault(digest, owner)
        if len(self._recent) >= RECENT:
            recent, self._recent = self._recent, {}
            self.extend(np.fromiter(recent, np.uint64), np.fromiter(recent.values(), np.int64))

    def extend(self, digests: UInt64[np.ndarray, "n"], owners: Int64[np.ndarray, "n"]) -> None:
        """Add many at once."""
        digests = np.concatenate([self._digests, digests])
        order = np.argsort(digests, kind="stable")
        self._digests, self._owners = digests[order], np.concatenate([self._owners, owners])[order]
