from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from fake_setting import FakeSetting, Pictures, fake_setting

from dinotrain.data.sources.landmarks import Relevance
from dinotrain.errors import UserError
from dinotrain.evaluation.setting import SplitFeatures
from dinotrain.evaluation.splits import Split, whole
from dinotrain.evaluation.tasks.retrieval import Retrieval


def test_classes_far_apart_are_found_and_noise_is_not() -> None:
    near, far = (Retrieval().run(fake_setting(spread=spread)) for spread in (0.1, 30.0))
    assert near.numbers == pytest.approx({"map": 100, "recall_at_1": 100, "recall_at_5": 100, "recall_at_10": 100})
    assert 20 < far.numbers["map"] < 40
    assert far.numbers["recall_at_1"] < far.numbers["recall_at_10"]


def test_numbers_are_means_over_the_queries() -> None:
    outcome = Retrieval(k=(1,)).run(fake_setting(spread=2.0, test=40, broken=(7,)))
    assert outcome.per_image is not None
    assert len(outcome.per_image.rows) == 39
    assert 7 not in outcome.per_image.rows
    assert 100 * outcome.per_image.arrays["value"].mean() == pytest.approx(outcome.numbers["map"], abs=1e-4)
    assert sum(int(row[1]) for row in outcome.tables[0].rows) == 39


def test_k_beyond_the_database_is_told() -> None:
    outcome = Retrieval(k=(1, 300, 200)).run(fake_setting(train=120))
    assert outcome.notes == ("k = 200, 300 is more than the 120 images of the database: all of them count",)
    assert outcome.numbers["recall_at_300"] == outcome.numbers["recall_at_200"] == 100


class Places(Pictures):
    """A database with ground truth in place of labels."""

    ground_truth: tuple[Relevance, ...] = ()


ANGLES = {"train": (50, 0, 20, 90, 70, 180), "test": (0, 90)}


class Pointed(FakeSetting):
    """Features in a plane, given by angles in degrees."""

    def features(self, split: Split, parts: object = ()) -> SplitFeatures:
        radians = np.deg2rad(np.array(ANGLES[split.name])[split.indices])
        values = torch.from_numpy(np.stack([np.cos(radians), np.sin(radians)], axis=1)).float()
        return SplitFeatures(values, np.arange(len(split)), None)


def lists(easy: list[int], hard: list[int], junk: list[int]) -> Relevance:
    return Relevance(*(np.array(numbers, np.int64) for numbers in (easy, hard, junk)))


def landmarks(truth: tuple[Relevance, ...]) -> FakeSetting:
    database, queries = Places(6), Pictures(2)
    database.labels = queries.labels = None
    database.ground_truth = truth
    plain = fake_setting()
    fields: dict[str, Any] = {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(plain) if field.init
    }
    fields["train"], fields["test"] = whole(database, "train"), whole(queries, "test")
    return Pointed(**fields)


def test_landmarks_by_hand() -> None:
    # By angle: query 0 finds 1 2 0 4 3 5, query 1 finds 3 4 0 2 1 5.
    outcome = Retrieval(k=(1, 5, 9)).run(landmarks((lists([1], [0], [2]), lists([], [2], []))))
    first_medium = ((1 + 1) / 2 + (1 / 1 + 2 / 2) / 2) / 2
    second = (0 / 3 + 1 / 4) / 2
    first_hard = (1 + 1) / 2  # 0 4 3 5 after easy and junk are gone
    assert outcome.numbers["map_medium"] == pytest.approx(100 * (first_medium + second) / 2)
    assert outcome.numbers["map_hard"] == pytest.approx(100 * (first_hard + second) / 2)
    assert outcome.numbers["map_easy"] == pytest.approx(100)  # of the first alone
    assert outcome.numbers["mp_at_1_medium"] == pytest.approx(50)
    assert outcome.numbers["mp_at_9_medium"] == outcome.numbers["mp_at_5_medium"]
    assert outcome.notes == ("k = 9 is more than the 6 images of the database: all of them count",)
    assert next(iter(outcome.numbers)) == "map_medium"
    assert outcome.per_image is not None
    assert outcome.per_image.arrays["value"].tolist() == pytest.approx([first_medium, second])


def test_a_part_of_the_database_will_do() -> None:
    setting = landmarks((lists([1], [5], [2]), lists([], [2], [])))
    part = dataclasses.replace(setting, train=setting.train.part(np.array([0, 1, 3])))
    outcome = Retrieval(k=(1,)).run(part)
    assert outcome.numbers["map_medium"] == pytest.approx(100)
    assert "map_hard" not in outcome.numbers
    assert outcome.notes == ("3 of the 6 database images are missing; they count as not there",)


def test_ground_truth_without_positives_is_refused() -> None:
    with pytest.raises(UserError, match="no query has an easy or hard image in the database"):
        Retrieval().run(landmarks((lists([], [], [1]), lists([], [], []))))


@pytest.mark.parametrize(("k", "line"), [((), "k: got (), expected a list"), ((0,), "k: got 0, must be a whole")])
def test_bad_options_are_refused(k: tuple[int, ...], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        Retrieval(k=k)
