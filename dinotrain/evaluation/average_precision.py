"""Average precision of scores for labels that exclude each other or not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64


def average_precision(scores: Float[np.ndarray, "m C"], labels: Bool[np.ndarray, "m C"]) -> Float64[np.ndarray, "C"]:
    """Sum over the ranks of (gain in recall) x precision, per class, in 0..1; NaN for a class that no image has.

    Without interpolation; images with the same score share their rank (Manning et al., "Introduction to Information
    Retrieval", 2008, section 8.4). A score that is not finite ranks last.
    """
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, right = np.take_along_axis(scores, order, 0), np.take_along_axis(labels, order, 0)
    found = np.cumsum(right, axis=0)
    last = np.empty(ranked.shape, bool)  # of the images with its score
    last[:-1], last[-1:] = ranked[:-1] != ranked[1:], True
    precision = found / np.arange(1, len(found) + 1)[:, None]
    with np.errstate(invalid="ignore"):
        recall = found / found[-1]
    values = np.empty(ranked.shape[1])
    for column in range(ranked.shape[1]):
        ends = last[:, column]
        values[column] = np.diff(recall[ends, column], prepend=0) @ precision[ends, column]
    return values
