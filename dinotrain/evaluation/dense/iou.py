"""How well predicted classes cover the true ones: intersection over union."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dinotrain.data.dense import IGNORE

INTERSECTION, PREDICTED, TRUE = range(3)
"""Rows of what `areas` returns."""


def areas(predicted: Int64[Tensor, "H W"], truth: Int64[Tensor, "H W"], classes: int) -> Int64[Tensor, "3 C"]:
    """Labelled pixels that were rightly given each class, that were given it, and that are of it."""
    known = truth != IGNORE
    predicted, truth = predicted[known], truth[known]
    parts = (truth[predicted == truth], predicted, truth)
    return torch.stack([torch.bincount(part, minlength=classes) for part in parts])


def union(counted: Int64[np.ndarray, "*m 3 C"]) -> Int64[np.ndarray, "*m C"]:
    """Pixels that are of a class, were given it, or both."""
    return counted[..., PREDICTED, :] + counted[..., TRUE, :] - counted[..., INTERSECTION, :]


def class_iou(counted: Int64[np.ndarray, "m 3 C"]) -> Float64[np.ndarray, "C"]:
    """Intersection over union of each class in percent over all images together, as in PASCAL VOC and ADE20K.

    NaN for a class that is nowhere and was nowhere predicted.
    """
    total = counted.sum(axis=0)
    return _percent(total[INTERSECTION], union(total))


def class_accuracy(counted: Int64[np.ndarray, "m 3 C"]) -> Float64[np.ndarray, "C"]:
    """Share of each class's pixels that were found, in percent; NaN for a class that is nowhere."""
    total = counted.sum(axis=0)
    return _percent(total[INTERSECTION], total[TRUE])


def pixel_accuracy(counted: Int64[np.ndarray, "m 3 C"]) -> float:
    """Share of all labelled pixels that were given their class, in percent."""
    total = counted.sum(axis=(0, 2))
    return 100.0 * float(total[INTERSECTION]) / max(float(total[TRUE]), 1.0)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, 100.0 * part / np.maximum(whole, 1), np.nan)
