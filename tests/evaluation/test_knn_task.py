from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_setting import fake_setting

from dinotrain.evaluation.tasks.knn import Knn, drawn_per_class


def test_accuracy_is_that_of_scikit_learn_for_every_k() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    setting = fake_setting(classes=7, train=210, test=90, spread=2.0)
    train, test = setting.features(setting.train), setting.features(setting.test)
    outcome = Knn(k=(1, 5, 30)).run(setting)
    weights: Any = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
    for k in (1, 5, 30):
        reference = KNeighborsClassifier(k, metric="cosine", weights=weights)
        votes = reference.fit(train.values.numpy(), train.labels).predict_proba(test.values.numpy())
        rank = (votes > votes[np.arange(90), test.labels][:, None]).sum(axis=1)
        assert outcome.numbers[f"top1_k{k}"] == pytest.approx(100 * (rank == 0).mean())
        voted = votes[np.arange(90), test.labels] > 0
        assert outcome.numbers[f"top5_k{k}"] == pytest.approx(100 * ((rank < 5) & voted).mean())
    assert next(iter(outcome.numbers)) == "top1"
    assert outcome.numbers["top1"] == max(outcome.numbers[f"top1_k{k}"] for k in (1, 5, 30))
    assert outcome.numbers["top5"] == outcome.numbers[f"top5_k{outcome.protocol['best_k']}"]


def test_every_test_image_stands_in_the_numbers_once() -> None:
    outcome = Knn(k=(5,)).run(fake_setting(test=40, broken=(3, 17), spread=2.0))
    assert outcome.per_image is not None
    assert outcome.per_image.rows.tolist() == [row for row in range(40) if row not in (3, 17)]
    assert 100 * outcome.per_image.arrays["value"].mean() == pytest.approx(outcome.numbers["top1"])
    (matrix,) = outcome.matrices
    assert np.sum(matrix.values, axis=1) == pytest.approx(100)


def test_k_beyond_the_training_images_is_told() -> None:
    outcome = Knn(k=(10, 500, 200)).run(fake_setting(train=120))
    assert outcome.notes == ("k = 200, 500 is more than the 120 training images: all of them vote",)
    assert outcome.numbers["top1_k200"] == outcome.numbers["top1_k500"]


def test_few_images_per_class_are_drawn_several_times() -> None:
    setting = fake_setting(train=120, spread=2.0)
    outcome = Knn(k=(1, 3), per_class=(1, 5, 40), repeats=3).run(setting)
    one, five = outcome.numbers["top1_1_per_class"], outcome.numbers["top1_5_per_class"]
    assert one < five <= outcome.numbers["top1"] + 15
    assert outcome.numbers["std_1_per_class"] > 0
    # All 30 of each class, each time: the whole bank.
    assert outcome.numbers["top1_40_per_class"] == pytest.approx(outcome.numbers["top1"])
    assert outcome.numbers["std_40_per_class"] == pytest.approx(0, abs=1e-9)
    assert outcome.notes == ("40 images per class: some classes have fewer (least 30), they give all",)
    assert len(outcome.tables[0].rows) == 3
    assert Knn(k=(1, 3), per_class=(1, 5, 40), repeats=3).run(setting).numbers == outcome.numbers


def test_classes_without_a_training_image_are_told() -> None:
    setting = fake_setting(train=120, classes=6)
    few = replace(setting, train=setting.train.part(np.arange(9)[np.arange(9) % 6 != 4]))
    outcome = Knn(k=(1,), per_class=(2,), repeats=1).run(few)
    assert outcome.notes[0] == "1 class has no training image among the 8 that are used: never predicted"
    assert outcome.notes[1] == "2 images per class: some classes have fewer (least 1), they give all"


def test_a_draw_has_so_many_of_each_class() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 200)
    small, large = drawn_per_class(labels, 3, (0, 1)), drawn_per_class(labels, 8, (0, 1))
    assert np.bincount(labels[small]).tolist() == [3] * 5
    assert np.bincount(labels[large]).tolist() == [8] * 5
    assert set(small) <= set(large)
    assert not np.array_equal(small, drawn_per_class(labels, 3, (0, 2)))


def test_pictures_show_right_and_wrong_ones() -> None:
    outcome = Knn(k=(5,)).run(fake_setting(spread=3.0))
    (picture,) = outcome.pictures
    frames = {tuple(color) for color in picture.image.reshape(-1, 3)}
    assert {(0, 158, 115), (213, 94, 0)} <= frames
    assert picture.image.ndim == 3


def test_many_classes_have_a_table_in_place_of_a_matrix() -> None:
    outcome = Knn(k=(1,)).run(fake_setting(classes=45, train=90, test=90, spread=3.0))
    assert not outcome.matrices
    assert outcome.tables


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"k": ()}, "k: got an empty list, expected numbers of neighbours"),
        ({"k": "10"}, "k: got '10', expected a list"),
        ({"k": (True,)}, "k: got True, must be a whole number"),
        ({"k": True}, "k: got True, must be a whole number"),
        ({"k": (0, 5)}, "k: got 0, must be a whole number at least 1"),
        ({"temperature": 0}, "temperature: got 0"),
        ({"temperature": -1}, "temperature: got -1"),
        ({"per_class": (1.5,)}, "per_class: got 1.5"),
        ({"repeats": 0}, "repeats: got 0"),
    ],
)
def test_bad_options_are_refused(options: dict, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        Knn(**options)
