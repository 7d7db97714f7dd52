"""How right a classifier's scores are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from dinotrain.evaluation.average_precision import average_precision

NO_POSITIVES = 0.5
"""Threshold of a class that no image has, for which there is nothing to choose by."""


@dataclass(frozen=True)
class Measured:
    """What scores are worth."""

    numbers: dict[str, float]
    """The headline first, in percent; `loss` last, as it is."""
    images: Int64[np.ndarray, "C"]
    """Of each class."""
    recall: Float64[np.ndarray, "C"]
    """Of each class, in percent; NaN where no image has it."""
    precision: Float64[np.ndarray, "C"]
    """NaN where no image was given it."""
    average_precision: Float64[np.ndarray, "C"] | None = None
    """Where classes do not exclude each other."""
    thresholds: Float64[np.ndarray, "C"] | None = None


def measure_single(scores: Float[np.ndarray, "m C"], labels: Int64[np.ndarray, "m"]) -> Measured:
    """Accuracy where classes exclude each other.

    Args:
        scores: before softmax.
        labels: class numbers.
    """
    count = scores.shape[1]
    answers, known = scores.argmax(axis=1), np.bincount(labels, minlength=count)
    right = np.bincount(labels[answers == labels], minlength=count)
    recall, precision = _percent(right, known), _percent(right, np.bincount(answers, minlength=count))
    numbers = {"top1": 100 * float((answers == labels).mean())}
    if count > 5:
        best = np.argpartition(-scores, 5, axis=1)[:, :5]
        numbers["top5"] = 100 * float((best == labels[:, None]).any(axis=1).mean())
    numbers["mean_class_recall"] = float(np.nanmean(recall))
    wide = scores.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    losses = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), labels]
    return Measured(numbers | {"loss": float(losses.mean())}, known, recall, precision)


def measure_multi(scores: Float[np.ndarray, "m C"], labels: Bool[np.ndarray, "m C"]) -> Measured:
    """Average precision, and recall at the best thresholds, where classes do not exclude each other.

    Args:
        scores: before the sigmoid.
        labels: which classes each image has.
    """
    found = probabilities(scores)
    thresholds = best_thresholds(found, labels)
    answers = found >= thresholds
    right, known = (answers & labels).sum(axis=0), labels.sum(axis=0)
    precisions = 100 * average_precision(scores, labels)
    recall, precision = _percent(right, known), _percent(right, answers.sum(axis=0))
    f1 = 200 * right[known > 0] / (answers.sum(axis=0) + known)[known > 0]
    wide = scores.astype(np.float64)
    losses = np.maximum(wide, 0) - wide * labels + np.log1p(np.exp(-np.abs(wide)))
    numbers = {
        "map": float(np.nanmean(precisions)),
        "mean_class_recall": float(np.nanmean(recall)),
        "mean_class_f1": float(f1.mean()),
        "loss": float(losses.sum(axis=1).mean()),
    }
    return Measured(numbers, known, recall, precision, precisions, thresholds)


def probabilities(scores: Float[np.ndarray, "m C"]) -> Float64[np.ndarray, "m C"]:
    """The sigmoid of each."""
    return 0.5 * (1 + np.tanh(0.5 * scores.astype(np.float64)))


def best_thresholds(found: Float64[np.ndarray, "m C"], labels: Bool[np.ndarray, "m C"]) -> Float64[np.ndarray, "C"]:
    """Of each class, the probability from which on saying yes gives the highest F1; 0.5 where no image has it.

    Half-way between two probabilities that occur; of several equally good ones, the highest.
    """
    return np.array([_best_threshold(*columns) for columns in zip(found.T, labels.T)])


def _best_threshold(found: Float64[np.ndarray, "m"], labels: Bool[np.ndarray, "m"]) -> float:
    if not labels.any():
        return NO_POSITIVES
    order = np.argsort(-found, kind="stable")
    ranked, right = found[order], np.cumsum(labels[order])
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + labels.sum())
    below = np.append(ranked[1:], 0.0)
    # A threshold can't part images of the same probability.
    f1[ranked == below] = -1.0
    f1[-1] = 2 * right[-1] / (len(ranked) + labels.sum())
    best = int(f1.argmax())
    return float((ranked[best] + below[best]) / 2)


def _percent(part: np.ndarray, whole: np.ndarray) -> Float64[np.ndarray, "C"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * part / np.where(whole > 0, whole, np.nan)
