"""Intervals and differences over resampled test images."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dinotrain.evaluation.bootstrap import STATISTICS, interval, paired_difference, statistic


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_numbers_themselves_by_hand() -> None:
    assert statistic("mean", {"value": np.array([True, False, True, True])}) == 75
    assert statistic("rmse", {"value": np.array([0.5, 1.0])}) == 0.75
    # Class 0: 3 of 4 pixels over all images, class 1: 1 of 4; class 2 is nowhere.
    intersection, union = np.array([[2, 0, 0], [1, 1, 0]]), np.array([[2, 0, 0], [2, 4, 0]])
    assert statistic("iou", {"intersection": intersection, "union": union}) == pytest.approx(50)
    # Positives at ranks 1 and 3: (1 + 2/3) / 2; the second class has none.
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([[True, False], [False, False], [True, False]])
    assert statistic("average_precision", {"scores": scores, "labels": labels}) == pytest.approx(100 * 5 / 6)


def test_images_without_a_value_do_not_count() -> None:
    assert statistic("mean", {"value": np.array([1, np.nan, 0])}) == 50


def test_average_precision_is_that_of_scikit_learn_with_ties_and_repeated_images() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = generator()
    scores = random.integers(0, 12, (60, 3)) / 10
    labels = random.random((60, 3)) < 0.3
    counts = random.integers(0, 4, (5, 60)).astype(float)
    found = STATISTICS["average_precision"].compute({"scores": scores, "labels": labels}, counts)
    for row, value in zip(counts, found):
        expected = [metrics.average_precision_score(labels[:, c], scores[:, c], sample_weight=row) for c in range(3)]
        assert value == pytest.approx(100 * np.mean(expected))


@pytest.mark.parametrize("values", ["shares", "numbers"])
def test_the_interval_of_a_mean_is_the_normal_one(values: str) -> None:
    random = generator()
    value = random.random(2000) < 0.8 if values == "shares" else random.exponential(size=2000)
    low, high = interval("rmse", {"value": value}, samples=4000)
    half = 1.96 * np.std(value) / np.sqrt(len(value))
    assert low == pytest.approx(np.mean(value) - half, abs=0.1 * half)
    assert high == pytest.approx(np.mean(value) + half, abs=0.1 * half)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = generator()
    held = [
        low <= 80 <= high
        for repetition in range(400)
        for low, high in [interval("mean", {"value": random.random(300) < 0.8}, samples=400, seed=repetition)]
    ]
    assert 0.915 <= np.mean(held) <= 0.98


def test_intervals_of_the_other_kinds_hold_the_whole() -> None:
    random = generator()
    union = random.integers(0, 50, (200, 5))
    intersection = random.binomial(union, 0.6)
    low, high = interval("iou", {"intersection": intersection, "union": union}, samples=500)
    assert 58 < low < 60 < high < 62
    labels = random.random((300, 4)) < 0.3
    scores = labels + random.normal(size=labels.shape)
    arrays = {"scores": scores, "labels": labels}
    low, high = interval("average_precision", arrays, samples=300)
    assert low < statistic("average_precision", arrays) < high
    assert 2 < high - low < 15


def test_the_same_arguments_give_the_same_interval() -> None:
    value = {"value": generator().random(500)}
    assert interval("mean", value) == interval("mean", value)
    assert interval("mean", value) != interval("mean", value, seed=1)
    assert interval("mean", value, level=0.5)[0] > interval("mean", value)[0]


def test_what_is_hard_for_both_cancels_out_in_a_difference() -> None:
    random = generator()
    hard = random.random(1000)
    a, b = {"value": random.random(1000) > hard}, {}
    b["value"] = a["value"] | (random.random(1000) < 0.05)
    found = paired_difference("mean", a, b)
    assert found.value == pytest.approx(statistic("mean", b) - statistic("mean", a))
    assert found.low < found.value < found.high
    assert found.distinct
    assert found.share < 0.001
    # The intervals of the two on their own overlap.
    assert interval("mean", a)[1] > interval("mean", b)[0]
    back = paired_difference("mean", b, a)
    assert back.value == -found.value


def test_a_difference_of_chance_is_not_told_from_noise() -> None:
    random = generator()
    told = [
        paired_difference(
            "mean", {"value": random.random(300) < 0.7}, {"value": random.random(300) < 0.7}, samples=400
        ).distinct
        for _ in range(200)
    ]
    assert np.mean(told) < 0.1
    same = {"value": np.ones(10)}
    found = paired_difference("mean", same, same)
    assert (found.value, found.share, found.distinct) == (0.0, 1.0, False)


def test_a_share_of_images_has_wilson_s_interval() -> None:
    # Brown, Cai and DasGupta 2001: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), here p = 0.7, n = 10.
    assert interval("mean", {"value": np.arange(10) < 7}) == pytest.approx((39.68, 89.22), abs=0.01)
    assert interval("mean", {"value": np.array([1, np.nan, 1.0, 0])}) == pytest.approx((20.77, 93.85), abs=0.01)


@pytest.mark.parametrize(("images", "low"), [(1, 20.65), (7, 64.57), (1000, 99.62)])
def test_that_all_are_right_does_not_make_sure(images: int, low: float) -> None:
    assert interval("mean", {"value": np.ones(images, bool)}) == pytest.approx((low, 100.0), abs=0.01)
    assert interval("mean", {"value": np.zeros(images)}) == pytest.approx((0.0, 100 - low), abs=0.01)


def test_a_single_image_has_no_interval() -> None:
    single = {"intersection": np.ones((1, 2)), "union": np.ones((1, 2))}
    for kind, arrays in (
        ("rmse", {"value": np.ones(1)}),
        ("mean", {"value": np.array([0.3, np.nan])}),
        ("iou", single),
    ):
        assert np.isnan(interval(kind, arrays)).all()
    with pytest.raises(ValueError, match="a single image, expected at least 2"):
        paired_difference("mean", {"value": np.zeros(1)}, {"value": np.ones(1)})


def test_a_test_set_of_ten_thousand_takes_seconds() -> None:
    random = generator()
    began = time.process_time()
    interval("rmse", {"value": random.random(10_000)})
    interval("mean", {"value": random.random(100_000) < 0.5})
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("kind", "arrays", "message"),
    [
        ("median", {}, "kind: got 'median', expected one of mean"),
        ("mean", {}, "no 'value'"),
        ("mean", {"value": np.zeros(0)}, "at least one"),
        ("mean", {"value": np.zeros((3, 2))}, "one row per image"),
        ("iou", {"intersection": np.zeros((3, 2)), "union": np.zeros((4, 2))}, "alike"),
    ],
)
def test_other_arrays_are_refused(kind: str, arrays: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(kind, arrays)


def test_pairs_need_the_same_images() -> None:
    with pytest.raises(ValueError, match="got 3 images, expected 2"):
        paired_difference("mean", {"value": np.zeros(2)}, {"value": np.zeros(3)})
