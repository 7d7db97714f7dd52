"""How well clusters agree with classes that they were made without."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Agreement(NamedTuple):
    """Numbers in percent."""

    accuracy: float
    """Share of the images whose cluster stands for their class, at the best one-to-one matching of the two."""
    nmi: float
    """Normalised mutual information, by the arithmetic mean of the entropies."""
    ari: float
    """Rand index, adjusted for chance."""
    meaning: Int64[np.ndarray, "k"]
    """Class of each cluster; -1 for one that is left without, where there are more clusters than classes."""


def agreement(clusters: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "n"], *, k: int, classes: int) -> Agreement:
    """Compare k clusters with the classes; matched by the Hungarian method."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = np.bincount(clusters * classes + labels, minlength=k * classes).reshape(k, classes)
    rows, columns = linear_sum_assignment(table, maximize=True)
    meaning = np.full(k, -1)
    meaning[rows] = columns
    return Agreement(
        accuracy=100 * float(table[rows, columns].sum() / len(labels)),
        nmi=100 * float(normalized_mutual_info_score(labels, clusters)),
        ari=100 * float(adjusted_rand_score(labels, clusters)),
        meaning=meaning,
    )
