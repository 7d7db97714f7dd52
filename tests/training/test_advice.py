"""Warnings of a run in trouble: when, how often, and what they tell to do."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinotrain.training.advice import PATIENCE, Advisor

K = 1024
CHANCE = math.log(K)
CONFIGS = Path(__file__).parents[2] / "configs"


def row(step: int, **changes: Any) -> dict[str, Any]:
    """A row of a run that does well, past its warm-up."""
    good = {
        "step": step,
        "time": float(step),
        "lr": 1e-3 / (step + 1),
        "dino_loss": 0.7 * CHANCE,
        "teacher_entropy": 0.4 * CHANCE,
        "prototypes_used": 0.9,
        "effective_rank": 20.0,
        "data_wait": 0.02,
        "loss_scale": 1024.0,
        "skipped_steps": 3,
    }
    return good | changes


TROUBLES: dict[str, dict[str, Any]] = {
    "ln K": {"dino_loss": 0.995 * CHANCE},
    "collapsing": {"teacher_entropy": 0.001, "prototypes_used": 0.02},
    "uniform": {"teacher_entropy": 0.999 * CHANCE},
    "dimensions": {"effective_rank": 1.7},
    "loss scale": {"loss_scale": 0.5},
    "waiting for data": {"data_wait": 0.6},
}


def said(advisor: Advisor, start: int, count: int, **changes: Any) -> list[str]:
    return [text for step in range(start, start + count) for text in advisor.check(row(step, **changes))]


def test_a_run_that_does_well_hears_nothing() -> None:
    assert said(Advisor(num_prototypes=K), 0, 50) == []


@pytest.mark.parametrize("words", TROUBLES)
def test_each_trouble_is_said_once_and_again_after_it_was_over(words: str) -> None:
    advisor = Advisor(num_prototypes=K)
    said(advisor, 0, 5)
    texts = said(advisor, 5, 30, **TROUBLES[words])
    assert len(texts) == 1
    assert words in texts[0]
    assert said(advisor, 35, 10) == []
    assert len(said(advisor, 45, 10, **TROUBLES[words])) == 1


@pytest.mark.parametrize("words", sorted(set(TROUBLES) - {"loss scale"}))
def test_a_single_bad_row_is_no_trouble(words: str) -> None:
    advisor = Advisor(num_prototypes=K)
    said(advisor, 0, 5)
    for step in range(5, 25, 2):
        assert advisor.check(row(step, **TROUBLES[words])) == []
        assert advisor.check(row(step + 1)) == []


@pytest.mark.parametrize("words", TROUBLES)
def test_what_was_said_is_known_after_a_resume(words: str) -> None:
    rows = [row(step) for step in range(5)] + [row(step, **TROUBLES[words]) for step in range(5, 15)]
    resumed = Advisor(num_prototypes=K, rows=rows)
    assert said(resumed, 15, 10, **TROUBLES[words]) == []
    half = Advisor(num_prototypes=K, rows=rows[:7])
    assert len(said(half, 7, 10, **TROUBLES[words])) == (0 if words == "loss scale" else 1)


def test_a_loss_at_chance_is_expected_while_warming_up() -> None:
    advisor = Advisor(num_prototypes=K)
    for step in range(20):
        assert advisor.check(row(step, lr=1e-5 * step, dino_loss=CHANCE)) == []
    assert len(said(advisor, 20, PATIENCE + 1, dino_loss=CHANCE)) == 1


def test_a_loss_that_goes_back_to_chance_is_said_even_then() -> None:
    advisor = Advisor(num_prototypes=K)
    for step in range(5):
        advisor.check(row(step, lr=1e-5 * step, dino_loss=0.9 * CHANCE))
    texts = [text for step in range(5, 12) for text in advisor.check(row(step, lr=1e-5 * step, dino_loss=CHANCE))]
    assert len(texts) == 1


def test_a_loss_on_its_way_down_past_chance_is_no_trouble() -> None:
    advisor = Advisor(num_prototypes=K)
    for step in range(60):
        assert advisor.check(row(step, dino_loss=CHANCE * (1.6 - 0.012 * step))) == []


def test_certain_targets_that_differ_are_no_collapse() -> None:
    assert said(Advisor(num_prototypes=K), 0, 20, teacher_entropy=0.001, prototypes_used=0.95) == []


def test_a_small_batch_is_not_told_that_its_rank_is_small() -> None:
    assert said(Advisor(num_prototypes=K, images=4), 0, 20, effective_rank=2.5) == []


def test_skipped_steps_count_when_they_are_many_lately() -> None:
    advisor = Advisor(num_prototypes=K)
    assert [t for step in range(20) for t in advisor.check(row(step, skipped_steps=min(step, 3)))] == []
    texts = [t for step in range(20, 40) for t in advisor.check(row(step, skipped_steps=3 + step // 2))]
    assert len(texts) == 1
    assert "skipped" in texts[0]


def test_a_falling_knn_is_said_with_its_best_step() -> None:
    advisor = Advisor(num_prototypes=K)
    accuracies = [14.0, 33.0, 31.0, 27.0, 26.0, 25.0]
    texts = [t for i, value in enumerate(accuracies) for t in advisor.check({"step": 200 * i, "knn_top1": value})]
    assert len(texts) == 1
    assert "33.0 % at step 200" in texts[0]


def test_null_values_and_other_rows_tell_nothing() -> None:
    advisor = Advisor(num_prototypes=K)
    for step in range(10):
        assert advisor.check(row(step, loss_scale=None, effective_rank=None, dino_loss=None)) == []
        assert advisor.check({"step": step, "time": 1.0, "event": "resume"}) == []


def existing_keys() -> set[str]:
    """Dotted keys of the groups of configs/, every alternative of a group together."""
    found = set()

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}")
        found.add(path)

    for file in CONFIGS.glob("*/*.yaml"):
        walk(yaml.safe_load(file.read_text()), file.parent.name)
    return found


def test_the_keys_to_try_exist() -> None:
    advisor = Advisor(num_prototypes=K)
    texts = [text for words in TROUBLES for text in said(Advisor(num_prototypes=K), 0, 20, **TROUBLES[words])]
    texts += [t for i in range(20) for t in advisor.check(row(i, skipped_steps=i))]
    texts += [t for i, value in enumerate([50.0, 10.0, 10.0]) for t in advisor.check({"step": i, "knn_top1": value})]
    assert len(texts) == len(TROUBLES) + 2
    named = {key for text in texts for key in re.findall(r"\b(?:optim|method|runtime|crops)\.[a-z_.]*[a-z_]", text)}
    assert len(named) > 8
    assert named <= existing_keys()
