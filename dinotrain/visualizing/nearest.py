"""The images that are most like others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.evaluation.neighbours import nearest


class Found(NamedTuple):
    """A neighbour."""

    name: str
    similarity: float
    tile: UInt8[np.ndarray, "s s 3"]


def nearest_rows(
    bank: Float[Tensor, "n D"], queries: Float[Tensor, "m D"], k: int, *, themselves: bool
) -> list[list[tuple[int, float]]]:
    """For each query the k most similar rows of the bank and their cosine similarity.

    Args:
        themselves: whether the queries are the rows of the bank, and none is to find itself.
    """
    found = nearest(bank, queries, k + themselves)
    pairs = [list(zip(rows, values)) for rows, values in zip(found.index.tolist(), found.similarity.tolist())]
    return [
        [(row, value) for row, value in pair if not themselves or row != number][:k]
        for number, pair in enumerate(pairs)
    ]
