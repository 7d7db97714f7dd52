"""Class imbalance: weights in the loss, and how often images are shown."""

from __future__ import annotations

import numpy as np
import pytest

from dinotrain.data.order import Order
from dinotrain.finetuning.sampling import Weighted, class_weights, image_weights, positive_weights


def test_class_weights_are_inverse_to_frequency_with_mean_one_over_the_images() -> None:
    counts = np.array([80, 20, 0])
    weights = class_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(4)
    assert weights[2] == 0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)


def test_positive_weights_are_negatives_over_positives() -> None:
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]], bool)
    assert positive_weights(labels).tolist() == [1, 1, 3]


def test_images_count_as_their_rarest_class() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], bool)
    weights = image_weights(labels)
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 4, 1, 1 / 4])


def test_every_class_is_shown_as_often() -> None:
    labels = np.repeat([0, 1, 2], [160, 30, 10])
    order = Weighted(image_weights(labels))
    assert isinstance(order, Order)
    rows = order(np.arange(600), seed=3)
    # A third of each epoch's 200 positions is no whole number.
    assert np.bincount(labels[rows]).tolist() == pytest.approx([200, 200, 200], abs=3)
    # Of each epoch, every image of a class as often as the others, give or take one.
    shown = np.bincount(rows[:200], minlength=200)
    assert np.ptp(shown[160:190]) <= 1
    assert np.ptp(shown[190:]) <= 1
    assert len(np.unique(rows[labels[rows] == 0])) > 100


def test_every_class_has_its_share_of_an_epoch() -> None:
    """However the images of the classes lie among each other."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [500, 400, 97]))
    order = Weighted(image_weights(labels), labels)
    for epoch in range(3):
        rows = order(np.arange(997 * epoch, 997 * (epoch + 1)), seed=1)
        assert set(np.bincount(labels[rows]).tolist()) <= {332, 333}


def test_the_order_is_a_function_of_seed_and_position() -> None:
    order = Weighted(np.linspace(1, 5, 40))
    places = np.arange(100)
    together = order(places, 1)
    assert together.tolist() == [int(order(np.array([place]), 1)[0]) for place in places]
    assert together.tolist() != order(places, 2).tolist()


def test_replacements_are_other_draws() -> None:
    order = Weighted(np.ones(20))
    found = list(order.replacements(7, seed=0))
    assert len(found) == 19
    assert len(set(found)) > 5


@pytest.mark.parametrize("weights", [np.zeros(3), np.array([1.0, -1.0]), np.zeros(0), np.array([np.nan])])
def test_weights_that_make_no_sense_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="weights"):
        Weighted(weights)
