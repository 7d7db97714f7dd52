"""The images of a file of features that are most like others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dinotrain.evaluation.neighbours import Neighbours, nearest


def nearest_in(blocks: Iterable[np.ndarray], queries: Float[Tensor, "m D"], k: int) -> Neighbours:
    """The k rows of largest cosine similarity with each query; a block of rows at a time in memory.

    Equally similar rows stand in the order of their numbers.
    """
    similarity, index = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    start = 0
    for block in blocks:
        found = nearest(torch.from_numpy(np.ascontiguousarray(block)), queries, k)
        joined = torch.cat([similarity, found.similarity], dim=1)
        similarity, order = joined.sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, found.index + start], dim=1).gather(1, order)[:, :k]
        similarity = similarity[:, :k]
        start += len(block)
    return Neighbours(similarity, index)
