from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_setting import FakeSetting, Pictures, fake_setting
from spawn import run_processes

from dinotrain.errors import UserError
from dinotrain.evaluation.linear.scores import best
from dinotrain.evaluation.linear.sweep import LinearSweep
from dinotrain.evaluation.outcome import Outcome
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.splits import Split, whole
from dinotrain.evaluation.tasks.linear import Linear


def task(**changes: Any) -> Linear:
    """With few steps, and a good learning rate among others."""
    options: dict[str, Any] = {"steps": 40, "batch": 32, "learning_rates": (1e-3, 0.1, 1.0)} | changes
    return Linear(**options)


def real_setting(**options: Any) -> Setting:
    """With features of the tiny network."""
    made = fake_setting(**options)
    return Setting(**{each.name: getattr(made, each.name) for each in fields(Setting) if each.init})


def test_stored_features_that_can_be_separated_are() -> None:
    setting = fake_setting(test=60, broken=(5, 17), classes=6)
    outcome = task(augment=False).run(setting)
    assert list(outcome.numbers) == ["top1", "top5", "validation_top1"]
    assert outcome.numbers["top1"] > 95
    assert outcome.numbers["top5"] >= outcome.numbers["top1"]
    assert outcome.per_image is not None
    assert outcome.per_image.kind == "mean"
    assert len(outcome.per_image.rows) == 58
    assert not {5, 17} & set(outcome.per_image.rows.tolist())
    assert 100 * outcome.per_image.arrays["value"].mean() == pytest.approx(outcome.numbers["top1"])
    json.dumps(outcome.protocol)


def test_the_grid_tells_of_every_head_and_which_was_chosen() -> None:
    outcome = task(augment=False).run(fake_setting(spread=3.0))
    validation, test, confusion = outcome.matrices
    assert validation.columns == ("0.001", "0.1", "1")
    assert validation.rows == (
        "last 1, CLS",
        "last 1, CLS + mean patch",
        "last 2, CLS",
        "last 2, CLS + mean patch",
    )
    scores = np.array(validation.values)
    assert scores.shape == (4, 3)
    assert outcome.numbers["validation_top1"] == scores.max()
    chosen = outcome.protocol["chosen"]
    place = validation.rows.index(chosen["input"]), validation.columns.index(f"{chosen['learning_rate']:g}")
    assert scores[place] == scores.max()
    assert validation.marked == test.marked == place
    assert np.array(test.values)[place] == pytest.approx(outcome.numbers["top1"])
    assert confusion.rows == ("class0", "class1", "class2", "class3")
    # More features tell more, where every part has noise of its own.
    assert scores[3].max() > scores[0].max()
    assert "the network has 2" in outcome.notes[0]


def test_views_of_images_train_it_too() -> None:
    outcome = task(blocks=(1,), steps=20).run(real_setting())
    assert outcome.numbers["top1"] > 70
    assert outcome.protocol["augment"]["crops"] == [0.08, 1.0]
    assert not outcome.notes


def test_training_images_that_cannot_be_read_are_left_out() -> None:
    setting = real_setting()
    broken = replace(setting, train=whole(Pictures(120, 4, seed=1, broken=range(40)), "train"))
    outcome = task(steps=20).run(broken)
    lost = int(outcome.notes[-1].split()[0])
    assert 0.2 < lost / (20 * 32) < 0.5
    assert outcome.numbers["top1"] > 60
    for augment in (True, False):
        nothing = replace(setting, train=whole(Pictures(120, 4, broken=range(120)), "train"), validation=setting.test)
        with pytest.raises(UserError, match=r"none of the train(ing)? images can be read"):
            task(steps=2, augment=augment).run(nothing)


def outcomes(rank: int, size: int, augment: bool) -> Outcome:
    options = task(steps=10, batch=21, learning_rates=(1e-2, 0.1, 0.5), augment=augment)
    return options.run(real_setting(rank=rank, size=size, broken=(3,)))


@pytest.mark.parametrize("augment", [True, False])
def test_two_processes_find_what_one_finds(augment: bool) -> None:
    expected = outcomes(0, 1, augment)
    for found in run_processes(2, outcomes, 2, augment):
        assert found.numbers == pytest.approx(expected.numbers)
        assert found.protocol == expected.protocol
        assert found.matrices == expected.matrices


@pytest.mark.parametrize("augment", [True, False])
def test_held_out_images_train_no_head(augment: bool) -> None:
    setting, rows, seen = real_setting(train=30), np.arange(3, 20), set()

    def targets(asked: np.ndarray) -> torch.Tensor:
        seen.update(asked.tolist())
        return F.one_hot(torch.from_numpy(setting.train.labels[asked]), 4).float()

    LinearSweep(steps=4, batch=20, augment=augment).train(setting, rows, targets, 4)
    assert seen == set(rows.tolist())
    found = LinearSweep(augment=augment).choosing(setting, np.array([1, 25]), ("cls_1",))
    assert found.rows.tolist() == [1, 25]
    assert found.labels is not None
    assert found.labels.tolist() == [1, 1]


def test_a_validation_split_is_chosen_by() -> None:
    outcome = task(augment=False).run(fake_setting(validation=40))
    assert outcome.protocol["chosen_by"] == "validation split"
    with_held = task(augment=False).run(fake_setting())
    assert with_held.protocol["chosen_by"] == "0.1 of train, held out"


def test_further_tests_are_measured_with_the_same_head() -> None:
    setting = fake_setting(classes=12, test=48)
    few = Pictures(40, 3, seed=4)
    numbered = Pictures(36, 12, seed=5)
    numbered.classes = tuple(map(str, range(12)))
    setting = replace(setting, extra_tests={"few": whole(few, "few"), "v2": whole(numbered, "v2")})
    outcome = task(augment=False).run(setting)
    assert outcome.numbers["top1_few"] > 95
    assert "predicted among its 3 classes alone" in outcome.protocol["extra_tests"]["few"]
    assert "numbers of the sorted" in outcome.protocol["extra_tests"]["v2"]
    assert "top5_few" not in outcome.numbers
    assert outcome.numbers["top5_v2"] >= outcome.numbers["top1_v2"]
    # Sorted by name, class10 comes before class2: most numbers mean another class than that of the same number.
    assert outcome.numbers["top1_v2"] < 50


def test_further_tests_that_cannot_be_read_are_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearSweep, "train", lambda *_: pytest.fail("trained"))
    gone = whole(Pictures(9, 4, broken=range(9)), "sketch")
    with pytest.raises(UserError, match="none of the sketch images can be read"):
        task(augment=False).run(replace(fake_setting(), extra_tests={"sketch": gone}))


class Spoilt(FakeSetting):
    """Some features are not finite."""

    def features(self, split: Split, parts: Sequence[str] = ("cls_1",)) -> SplitFeatures:
        found = super().features(split, parts)
        found.values[3, 2], found.values[7] = torch.nan, torch.inf
        return found


def test_features_that_are_not_finite_spoil_nothing() -> None:
    made = fake_setting(spread=0.2)
    values: dict[str, Any] = {each.name: getattr(made, each.name) for each in fields(made) if each.init}
    setting = Spoilt(**values)
    outcome = task(augment=False, blocks=(1,)).run(setting)
    assert outcome.numbers["top1"] > 95
    assert np.isfinite(list(outcome.numbers.values())).all()
    assert not any("diverged" in note for note in outcome.notes)


def test_a_class_with_one_image_is_refused() -> None:
    setting = fake_setting(train=5, classes=4)
    with pytest.raises(UserError, match=r"class class1 .*single training image"):
        task(augment=False).run(setting)


class Halt(Exception):
    """An evaluation is to end."""


@pytest.mark.parametrize("augment", [True, False])
def test_it_ends_when_asked_to(augment: bool) -> None:
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise Halt

    with pytest.raises(Halt):
        task(augment=augment).run(real_setting(check=check, validation=20))


def test_of_equal_heads_that_with_the_least_loss_is_best() -> None:
    assert best(np.array([[50.0, 0.1], [90.0, 0.9], [90.0, 0.5], [90.0, np.inf]])) == 2
    assert best(np.array([[0.0, np.inf], [0.0, 3.0]])) == 1


def test_a_head_that_diverges_counts_as_wrong() -> None:
    outcome = task(learning_rates=(0.1, 1e39), blocks=(1,), augment=False).run(fake_setting())
    assert [row[1] for row in outcome.matrices[0].values] == [0.0, 0.0]
    assert outcome.notes[-1] == "2 of 4 heads diverged and count as 0 %"
    assert outcome.numbers["top1"] > 95


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"batch": 1.5}, "batch: got 1.5"),
        ({"learning_rates": ()}, r"learning_rates: got \(\), expected a list"),
        ({"learning_rates": 0.1}, "learning_rates: got 0.1, expected a list"),
        ({"learning_rates": (0.1, -1)}, "learning_rates: got -1"),
        ({"learning_rates": (0.1, 0)}, "learning_rates: got 0"),
        ({"blocks": (5,)}, "blocks: got 5"),
        ({"blocks": (1, 1)}, r"blocks: got \(1, 1\), expected .* different"),
        ({"pooling": ("mean",)}, "pooling: got 'mean', expected some of cls, cls_patch"),
        ({"augment": "yes"}, "augment: got 'yes'"),
        ({"held_out": 1.0}, "held_out: got 1.0"),
    ],
)
def test_options_that_are_wrong(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        Linear(**options)


def test_the_whole_grid_has_52_heads() -> None:
    options = LinearSweep()
    assert len(options.learning_rates) * len(options.blocks) * len(options.pooling) == 52
