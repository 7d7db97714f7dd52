"""Scores of the revisited Oxford and Paris benchmarks (Radenović et al., CVPR 2018, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from dinotrain.data.sources.landmarks import Relevance
from dinotrain.evaluation.ranking import precision_at, trapezoidal_average_precision, without_junk

PROTOCOLS = {
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
    "easy": (("easy",), ("junk", "hard")),
}
"""Which lists are positive, and which are taken out of the ranking; the first is the headline."""


class LandmarkScores(NamedTuple):
    """In 0..1; NaN for a query without positives, which does not count."""

    average_precision: Float64[np.ndarray, "Q"]
    precision: Float64[np.ndarray, "Q k"]


def landmark_scores(
    order: Int64[np.ndarray, "Q n"], truth: Sequence[Relevance], protocol: str, k: Sequence[int]
) -> LandmarkScores:
    """Trapezoidal average precision, and precision@k, of each query.

    Args:
        order: numbers of the database images, the most similar first. Positives that are not among them do not count.
        truth: of each query.
        protocol: a key of `PROTOCOLS`.
    """
    positive_lists, junk_lists = PROTOCOLS[protocol]
    precisions, at_k = np.full(len(order), np.nan), np.full((len(order), len(k)), np.nan)
    for query, (ranking, lists) in enumerate(zip(order, truth)):
        positive, junk = (
            np.concatenate([getattr(lists, name) for name in names]) for names in (positive_lists, junk_lists)
        )
        places = without_junk(ranking, positive, junk)
        if len(places):
            precisions[query] = trapezoidal_average_precision(places)
            at_k[query] = [precision_at(places, size) for size in k]
    return LandmarkScores(precisions, at_k)
