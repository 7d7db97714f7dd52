"""Class imbalance: weights of classes in the loss, and how often each image is shown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dinotrain.data.order import sample_index, sample_rng

_STREAM = 8


def class_weights(counts: Int64[np.ndarray, "C"]) -> Float64[np.ndarray, "C"]:
    """Weights of classes that exclude each other, inverse to their frequency; their mean over the images is 1.

    A class without images has weight 0.
    """
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)


def positive_weights(labels: Bool[np.ndarray, "n C"]) -> Float64[np.ndarray, "C"]:
    """For classes that do not exclude each other: images without the class over images with it.

    A class that no image or every image has gets 1.
    """
    positives = labels.sum(axis=0)
    mixed = (positives > 0) & (positives < len(labels))
    return np.where(mixed, (len(labels) - positives) / np.maximum(positives, 1), 1.0)


def image_weights(labels: Int64[np.ndarray, "n"] | Bool[np.ndarray, "n C"]) -> Float64[np.ndarray, "n"]:
    """How often images are to be shown, relative to each other: as the rarest class of each, inverse to its frequency.

    Images without any class are shown as often as those of the most frequent one.

    Args:
        labels: class numbers, or which classes each image has.
    """
    if labels.ndim == 1:
        return 1 / np.bincount(labels)[labels]
    counts = np.maximum(labels.sum(axis=0), 1)
    return np.where(labels, 1 / counts, 1 / counts.max()).max(axis=1)


class Weighted:
    """An order in which images stand as often as their weights say: a pure function of (position, seed).

    An epoch has as many positions as there are images. Of an image that is to be shown x times in it, it holds floor(x)
    or ceil(x) (systematic resampling; Kitagawa 1996), in random order.

    Args:
        weights: of the images, in any unit.
        groups: a number for each image; of every group, too, an epoch holds floor or ceil of its share. None for images
            of equal weight being a group.
    """

    def __init__(self, weights: Float64[np.ndarray, "n"], groups: Int64[np.ndarray, "n"] | None = None) -> None:
        if not len(weights) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
            raise ValueError("weights: expected finite numbers, none below 0, not all 0")
        self._order = np.argsort(weights if groups is None else groups, kind="stable")
        self._ends = np.cumsum(weights[self._order]) / weights.sum()

    def __call__(self, positions: Int64[np.ndarray, "n"], seed: int) -> Int64[np.ndarray, "n"]:
        places = np.asarray(positions, np.int64)
        length = len(self._ends)
        epochs = places // length
        shifts = np.empty(len(places))
        for epoch in np.unique(epochs).tolist():
            shifts[epochs == epoch] = sample_rng(seed, epoch, _STREAM).random()
        points = (sample_index(places, length, seed) + shifts) / length
        return self._order[np.minimum(np.searchsorted(self._ends, points, side="right"), length - 1)]

    def replacements(self, position: int, seed: int) -> Iterator[int]:
        """Images for one that can't be read: those at the same place of later epochs' draws."""
        length = len(self._ends)
        for later in range(1, length):
            yield int(self(np.array([position + later * length]), seed)[0])
