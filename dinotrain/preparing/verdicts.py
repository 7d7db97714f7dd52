"""Which images are kept, of those that look the same."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from dinotrain.preparing.near_pairs import near_pairs

VERDICT = np.dtype([("kept", np.int64), ("distance", np.int8), ("exact", np.bool_)])
"""Of an image: place of the one kept in its stead, or its own; bits in which they differ; whether bytes are equal."""


def verdicts(
    digests: UInt64[np.ndarray, "n"],
    hashes: UInt64[np.ndarray, "n"],
    hashed: Bool[np.ndarray, "n"],
    areas: Int64[np.ndarray, "n"],
    file_bytes: Int64[np.ndarray, "n"],
    distance: int,
) -> np.ndarray:
    """The largest first, in pixels and then in bytes, and of equals the first: each is kept, unless it is near one that
    is kept.

    Of several near ones the nearest counts; images with the same hash share one verdict. Memory: 90 bytes per image.

    Args:
        digests: of the bytes.
        hashes: of the looks.
        hashed: whether an image has a hash; one without is only compared by its bytes.
        areas: in pixels.
        file_bytes: length of the files.
        distance: most bits in which the hashes of near ones may differ.

    Returns:
        Of type VERDICT, [n].
    """
    result = np.zeros(len(digests), VERDICT)
    ranked = np.lexsort((-file_bytes, -areas))
    for group, values in ((ranked[hashed[ranked]], hashes), (ranked[~hashed[ranked]], digests)):
        # Equal values count once, as the first of them; they are numbered in order of rank.
        _, first, number = np.unique(values[group], return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.argsort(order)[number]
        leaders = group[first[order]]
        keepers = np.arange(len(leaders))
        bits = np.zeros(len(leaders), np.int8)
        if values is hashes:
            _settle(hashes[leaders], distance, keepers, bits)
        result["kept"][group] = leaders[keepers[number]]
        result["distance"][group] = bits[number]
    result["exact"] = (digests == digests[result["kept"]]) & (result["kept"] != np.arange(len(result)))
    return result


def _settle(hashes: UInt64[np.ndarray, "m"], distance: int, keepers: Int64[np.ndarray, "m"], bits: np.ndarray) -> None:
    """Write the number of the one that is kept in each one's stead, and how far it is: the nearest, then the first."""
    for later, earlier, apart in near_pairs(hashes, distance):
        if keepers[earlier] != earlier:
            continue
        if keepers[later] == later or apart < bits[later]:
            keepers[later], bits[later] = earlier, apart
