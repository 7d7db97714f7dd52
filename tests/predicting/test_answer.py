"""The forms of answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinotrain.predicting.answer import Answers

CLASSES = ("a", "b", "c", "d", "e", "f")
P = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.12, 0.03])


def labels(answers: Answers, thresholds: tuple[float, ...] | None = None) -> list[str]:
    return [each.label for each in answers.scored(P, CLASSES, thresholds=thresholds)]


def test_probs_stand_in_the_order_of_the_classifier() -> None:
    answers = Answers(form="probs")
    shown = answers.shown(answers.scored(P, CLASSES, thresholds=None))
    assert shown == {"probs": [0.1, 0.4, 0.05, 0.3, 0.12, 0.03], "labels": list(CLASSES)}


def test_ranked_are_the_likeliest_first() -> None:
    answers = Answers(form="ranked", top=2)
    shown = answers.shown(answers.scored(P, CLASSES, thresholds=None))
    assert shown == [{"label": "b", "score": 0.4}, {"label": "d", "score": 0.3}]


@pytest.mark.parametrize(
    ("answers", "thresholds", "told"),
    [
        (Answers(form="ranked"), None, "bdeac"),
        (Answers(form="ranked", top=99), None, "bdeacf"),
        (Answers(top=3), None, "bde"),
        (Answers(), (), ""),
        (Answers(threshold=0.1), (), "abde"),
        (Answers(threshold=0.1, form="ranked"), (), "bdea"),
        (Answers(threshold=0.0), (0.9,) * 6, "abcdef"),
        (Answers(), (0.2, 0.3, 0.01, 0.31, 0.0, 0.04), "bce"),
    ],
)
def test_which_classes_are_told(answers: Answers, thresholds: tuple[float, ...] | None, told: str) -> None:
    assert "".join(labels(answers, thresholds)) == told


@pytest.mark.parametrize("wrong", [{"form": "other"}, {"top": 0}, {"top": 1.5}, {"threshold": 1.1}, {"threshold": "x"}])
def test_other_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: got"):
        Answers(**wrong)
