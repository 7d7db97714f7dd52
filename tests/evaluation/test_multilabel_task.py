from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from fake_setting import fake_setting
from spawn import run_processes

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.evaluation.average_precision import average_precision
from dinotrain.evaluation.linear.multi_labels import multi_labels
from dinotrain.evaluation.outcome import Outcome
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import whole
from dinotrain.evaluation.tasks.multilabel import Multilabel


def task(**changes: Any) -> Multilabel:
    """With few steps, and a good learning rate among others."""
    options: dict[str, Any] = {"steps": 60, "batch": 32, "learning_rates": (1e-3, 0.05, 0.5)} | changes
    return Multilabel(**options)


class Blocks(Source):
    """Pictures in which each class brightens a quarter of its own; the last class has no image."""

    def __init__(self, count: int, seed: int, classes: tuple[str, ...] = ("a", "b", "c", "d", "none")) -> None:
        self.count, self.seed, self.classes = count, seed, classes
        self.multi_labels = np.random.default_rng(seed).random((count, len(classes))) < 0.4
        self.multi_labels[:, 4:] = False

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        if index == 7:
            raise BrokenImage("broken on purpose")
        image = np.random.default_rng([self.seed, index]).integers(0, 60, (16, 16, 3))
        for number in np.flatnonzero(self.multi_labels[index]):
            top, left = 8 * (number // 2), 8 * (number % 2)
            image[top : top + 8, left : left + 8, number % 3] += 180
        return image.astype(np.uint8)

    def name(self, index: int) -> str:
        return f"blocks/{index}"

    def fingerprint(self) -> str:
        return f"blocks:{self.count}:{self.seed}"


def setting(rank: int = 0, size: int = 1, **changes: Any) -> Setting:
    made = fake_setting(rank=rank, size=size)
    values: dict[str, Any] = {each.name: getattr(made, each.name) for each in fields(Setting) if each.init}
    values |= {"train": whole(Blocks(150, 1), "train"), "test": whole(Blocks(80, 2), "test")}
    return Setting(**values | changes)


def reference(scores: np.ndarray, labels: np.ndarray) -> list[float]:
    """By scikit-learn, of each class; imported here, since starting processes import this module."""
    from sklearn.metrics import average_precision_score

    return [float(average_precision_score(labels[:, c], scores[:, c])) for c in range(scores.shape[1])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [4, 10**6])
def test_average_precision_is_that_of_scikit_learn(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (40, 6)).astype(np.float32)
    labels = random.random((40, 6)) < [0.5, 0.1, 0.9, 0.3, 1.0, 0.02]
    labels[0] = True
    np.testing.assert_allclose(average_precision(scores, labels), reference(scores, labels), rtol=1e-12)


def test_average_precision_by_hand() -> None:
    scores, labels = np.array([[4.0], [3.0], [2.0], [np.nan]]), np.array([[True], [False], [True], [True]])
    assert average_precision(scores, labels)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert np.isnan(average_precision(scores, np.zeros((4, 1), bool))[0])


def test_it_learns_what_is_in_the_images() -> None:
    where = setting()
    outcome = task(augment=False).run(where)
    assert list(outcome.numbers) == ["map", "validation_map"]
    chance = 100 * Blocks(80, 2).multi_labels[:, :4].mean()
    assert outcome.numbers["map"] > chance + 25
    assert outcome.protocol["loss"] == "bce"
    assert where.unreadable["test"] == 1
    json.dumps(outcome.protocol)


def test_the_headline_is_the_mean_over_classes_with_an_image() -> None:
    outcome = task(augment=False).run(setting())
    assert outcome.per_image is not None
    assert outcome.per_image.kind == "average_precision"
    assert len(outcome.per_image.rows) == 79
    scores, labels = (outcome.per_image.arrays[name] for name in ("scores", "labels"))
    each = reference(scores[:, :4], labels[:, :4])
    assert outcome.numbers["map"] == pytest.approx(100 * float(np.mean(each)))
    rows = outcome.tables[0].rows
    assert [float(row[2]) for row in rows[:4]] == sorted((round(100 * ap, 1) for ap in each), reverse=True)
    assert rows[4] == ("none", "0", "-")
    test = np.array(outcome.matrices[1].values)
    assert np.isclose(test, outcome.numbers["map"]).any()


def test_views_train_it_too_and_a_validation_split_is_chosen_by() -> None:
    own = setting(validation=whole(Blocks(40, 3), "validation"))
    outcome = task(steps=20, blocks=(1,)).run(own)
    assert outcome.protocol["chosen_by"] == "validation split"
    assert 0 < outcome.numbers["map"] <= 100


def outcomes(rank: int, size: int) -> tuple[Outcome, int]:
    """And how often it ticked."""
    ticks: list[int] = []
    own = replace(setting(rank, size), check=partial(ticks.append, 1))
    return task(steps=10, augment=False).run(own), len(ticks)


def test_two_processes_find_what_one_finds() -> None:
    expected, _ = outcomes(0, 1)
    two = run_processes(2, outcomes, 2)
    heads = len(expected.matrices[0].rows) * len(expected.matrices[0].columns)
    assert two[0][1] == two[1][1] > 10 + 2 * heads
    for found, _ in two:
        assert found.numbers == pytest.approx(expected.numbers, abs=1e-4)
        assert found.protocol == expected.protocol


def test_classes_agree_by_name() -> None:
    test = whole(Blocks(80, 2, ("b", "a", "c", "d", "none")), "test")
    found, classes = multi_labels(test, ("a", "b", "c", "d", "none"))
    assert classes == ("a", "b", "c", "d", "none")
    assert np.array_equal(found[:, 0], Blocks(80, 2).multi_labels[:, 1])
    few = Blocks(80, 2, ("b", "a"))
    found, _ = multi_labels(whole(few, "test"), ("a", "b", "c"))
    assert np.array_equal(found[:, :2], few.multi_labels[:, ::-1])
    assert not found[:, 2].any()
    strange = setting(test=whole(Blocks(9, 2, ("x", "a", "c", "d", "none")), "test"))
    with pytest.raises(UserError, match="class 'x' of the test images is none of the training images'"):
        task().run(strange)


def test_other_sets_are_refused() -> None:
    with pytest.raises(UserError, match="the train images have one label each or none"):
        task().run(fake_setting())
    bare = Blocks(9, 1)
    bare.multi_labels[:] = False
    with pytest.raises(UserError, match="none of the test images has a label"):
        task().run(setting(test=whole(bare, "test")))
    with pytest.raises(UserError, match="got 1 images, expected at least 2"):
        task().run(replace(setting(), train=whole(Blocks(20, 1), "train").part(np.array([3]))))
