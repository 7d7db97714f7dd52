"""How sure a number is: resampling of the test images, for intervals and for differences between two networks.

The images of a test set are drawn again with replacement, as often as there are, and the number is computed on each
such set: the percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). What
varies is the choice of test images alone, not the seed of the training.

The interval of a share of images, each right or wrong, is Wilson's (Journal of the American Statistical Association
22, 1927), recommended by Brown, Cai and DasGupta (Statistical Science 16(2), 2001): resampling images that are all
right would say that there is no doubt, of a single one, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Arrays = Mapping[str, np.ndarray]
Counts = Float[np.ndarray, "s m"]
"""How often each of m images is in each of s resampled sets."""

SAMPLES = 2000
LEVEL = 0.95
MOST_COUNTS = 1 << 22
"""Numbers of a stretch of counts that is held at once."""
MOST_LEVELS = 256
"""Up to so many different values, it is drawn how often each comes, which is quicker and the same distribution."""
MOST_RANKED = 100_000_000
"""Scores that are gone through for an average precision, over all samples; but at least `LEAST_SAMPLES` samples."""
LEAST_SAMPLES = 200
LEAST_IMAGES = 2
"""Of fewer, resampling says nothing."""


@dataclass(frozen=True)
class Statistic:
    """A number over test images that can be computed with each image counted any number of times."""

    arrays: tuple[str, ...]
    """Names of what it is computed from, each with one row per image."""
    compute: Callable[[Arrays, Counts], Float[np.ndarray, "s"]]
    scalar: bool = False
    """Whether it is a mean of one value per image."""


class Difference(NamedTuple):
    """The second of two networks less the first, on the same test images."""

    value: float
    low: float
    high: float
    share: float
    """Of the samples in which the sign is another, counted for both sides: small where it can't be chance."""

    @property
    def distinct(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def statistic(kind: str, arrays: Arrays) -> float:
    """The number itself, each image counted once.

    Raises:
        ValueError: for an unknown kind, or arrays that are not what it takes.
    """
    found, images = _checked(kind, arrays)
    return float(found.compute(arrays, np.ones((1, images)))[0])


def interval(
    kind: str, arrays: Arrays, level: float = LEVEL, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of a number over the choice of test images; the same for the same arguments.

    Wilson's for a share of images that are right or wrong, else percentiles over resampled images; (nan, nan) where
    there are fewer than two images for these.

    Args:
        kind: a key of `STATISTICS`.
        arrays: what that takes, with one row per test image.
        level: share of the resampled numbers within.
        samples: resampled sets; fewer where each takes long (average precision).

    Raises:
        ValueError: as `statistic`.
    """
    found, images = _checked(kind, arrays)
    _check_level(level)
    if kind == "mean":
        value = np.asarray(arrays["value"], np.float64)
        known = value[np.isfinite(value)]
        if len(known) and np.isin(known, (0, 1)).all():
            return _wilson(int(known.sum()), len(known), level)
        images = len(known)
    if images < LEAST_IMAGES:
        return float("nan"), float("nan")
    return _percentiles(_resampled(found, [arrays], samples, seed)[0], level)


def paired_difference(
    kind: str, a: Arrays, b: Arrays, level: float = LEVEL, samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """How much the number of `b` is above that of `a`, resampling images together for both.

    Row i of both must be the same image; what makes an image hard for both then cancels out.

    Raises:
        ValueError: as `statistic`, for another number of images, or for a single one.
    """
    (found, images), (_, others) = _checked(kind, a), _checked(kind, b)
    if images != others:
        raise ValueError(f"b: got {others} images, expected {images} as in a")
    if images < LEAST_IMAGES:
        raise ValueError("a: got a single image, expected at least 2")
    _check_level(level)
    drawn = _resampled(found, [a, b], samples, seed)
    differences = drawn[1] - drawn[0]
    differences = differences[np.isfinite(differences)]
    low, high = _percentiles(differences, level)
    sides = np.mean(differences <= 0), np.mean(differences >= 0)
    return Difference(statistic(kind, b) - statistic(kind, a), low, high, min(1.0, 2 * float(min(sides))))


def _checked(kind: str, arrays: Arrays) -> tuple[Statistic, int]:
    """The statistic of a kind, and the number of images."""
    if kind not in STATISTICS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(STATISTICS)}")
    found = STATISTICS[kind]
    missing = [name for name in found.arrays if name not in arrays]
    if missing:
        raise ValueError(f"arrays: no {missing[0]!r}, which {kind!r} takes")
    shapes = [np.shape(arrays[name]) for name in found.arrays]
    if any(len(shape) != (1 if found.scalar else 2) for shape in shapes) or len(set(shapes)) > 1 or not shapes[0][0]:
        raise ValueError(f"arrays: got shapes {shapes} for {kind!r}, expected one row per image, at least one, alike")
    return found, shapes[0][0]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a share between 0 and 1")


def _wilson(right: int, images: int, level: float) -> tuple[float, float]:
    """In percent: the shares that what was found is within the normal deviation of."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / images, z**2 / images
    middle = share + weight / 2
    half = np.sqrt(weight * (share * (1 - share) + weight / 4))
    low, high = (100 * (middle + sign * half) / (1 + weight) for sign in (-1, 1))
    # Exactly at the end where all are right, or all wrong.
    return (0.0 if right == 0 else float(low)), (100.0 if right == images else float(high))


def _percentiles(values: Float[np.ndarray, "s"], level: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(found: Statistic, sets: Sequence[Arrays], samples: int, seed: int) -> Float[np.ndarray, "n s"]:
    """The number of each of n sets of arrays, on the same s resampled sets of images."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    first = sets[0][found.arrays[0]]
    if found.scalar:
        rows = np.stack([np.asarray(arrays["value"], np.float64) for arrays in sets], 1)
        levels, times = np.unique(rows, axis=0, return_counts=True)
        if len(levels) <= MOST_LEVELS:
            counts = generator.multinomial(len(rows), times / len(rows), size=samples).astype(np.float64)
            return np.stack([found.compute({"value": column}, counts) for column in levels.T])
    elif found.compute is _average_precision:
        samples = min(samples, max(LEAST_SAMPLES, MOST_RANKED // first.size))
    parts = [
        np.stack([found.compute(arrays, counts) for arrays in sets])
        for counts in _draws(len(first), samples, generator)
    ]
    return np.concatenate(parts, 1)


def _draws(images: int, samples: int, generator: np.random.Generator) -> Iterator[Counts]:
    """Counts of every image in resampled sets, some sets at a time."""
    step = max(1, MOST_COUNTS // images)
    for start in range(0, samples, step):
        sets = min(step, samples - start)
        drawn = generator.integers(0, images, (sets, images))
        drawn += images * np.arange(sets)[:, None]
        yield np.bincount(drawn.ravel(), minlength=sets * images).reshape(sets, images).astype(np.float64)


def _mean(arrays: Arrays, counts: Counts) -> Float[np.ndarray, "s"]:
    """Mean over the images that have a value."""
    values = np.asarray(arrays["value"], np.float64)
    known = np.isfinite(values)
    return _divided(counts @ np.where(known, values, 0), counts @ known)


def _percent(arrays: Arrays, counts: Counts) -> Float[np.ndarray, "s"]:
    return 100 * _mean(arrays, counts)


def _iou(arrays: Arrays, counts: Counts) -> Float[np.ndarray, "s"]:
    """Mean over the classes that are in any image, in percent."""
    shared = counts @ np.asarray(arrays["intersection"], np.float64)
    union = counts @ np.asarray(arrays["union"], np.float64)
    present = union > 0
    ratios = np.divide(shared, union, out=np.zeros_like(shared), where=present)
    return 100 * _divided(ratios.sum(1), present.sum(1))


def _average_precision(arrays: Arrays, counts: Counts) -> Float[np.ndarray, "s"]:
    """Mean over the classes that some image has, in percent; images of equal score share their rank."""
    scores, labels = arrays["scores"], np.asarray(arrays["labels"], bool)
    total, present = np.zeros(len(counts)), np.zeros(len(counts))
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked, truth = scores[order, column], labels[order, column]
        if not truth.any():
            continue
        last = np.searchsorted(-ranked, -ranked[truth], side="right") - 1  # of those with the same score
        weights = counts[:, order]
        right = np.cumsum(weights[:, truth], 1)
        among = np.cumsum(weights, 1)[:, last]
        # Positives up to that rank: of those with the same score, too.
        found = right[:, np.searchsorted(-ranked[truth], -ranked[truth], side="right") - 1]
        precision = np.divide(found, among, out=np.zeros_like(found), where=among > 0)
        total += _divided((weights[:, truth] * precision).sum(1), right[:, -1], empty=0.0)
        present += right[:, -1] > 0
    return 100 * _divided(total, present)


def _divided(above: Float[np.ndarray, "s"], below: np.ndarray, empty: float = float("nan")) -> Float[np.ndarray, "s"]:
    """A quotient; `empty` where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, empty), where=below > 0)


STATISTICS = {
    "mean": Statistic(("value",), _percent, scalar=True),
    "iou": Statistic(("intersection", "union"), _iou),
    "average_precision": Statistic(("scores", "labels"), _average_precision),
    "rmse": Statistic(("value",), _mean, scalar=True),
}
"""`mean`: of a share per image, such as 1 where it was classified right, in percent. `iou`: of pixels per image and
class. `average_precision`: of scores and labels per image and class. `rmse`: of one error per image, in its unit."""
