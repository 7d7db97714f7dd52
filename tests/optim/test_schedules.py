"""Schedules and the recipe that holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Golden, load

from dinotrain.optim.recipe import OptimizationRecipe, StepValues
from dinotrain.optim.schedules import Cosine, Delayed, Warmup

RUNS = load("schedules").texts("runs")


def golden_recipe(g: Golden, run: str, *, shares: bool) -> OptimizationRecipe:
    """The recipe of a run; lengths as numbers of steps, or as shares of the run."""
    cfg = f"{run}/cfg/"
    epoch = g.size(f"{cfg}train.OFFICIAL_EPOCH_LENGTH")
    steps = g.size(f"{cfg}optim.epochs") * epoch

    rule, _, reference = g.text(f"{cfg}optim.scaling_rule").partition("_wrt_")

    def length(key: str) -> float:
        value = g.number(cfg + key) * epoch
        return value / steps if shares else value

    return OptimizationRecipe(
        steps=steps,
        global_batch=g.size(f"{cfg}train.batch_size_per_gpu") * g.size(f"{cfg}world_size"),
        base_lr=g.number(f"{cfg}optim.base_lr"),
        lr_rule=rule,  # pyright: ignore
        lr_reference_batch=int(reference),
        min_lr=g.number(f"{cfg}optim.min_lr"),
        warmup=length("optim.warmup_epochs"),
        weight_decay=g.number(f"{cfg}optim.weight_decay"),
        weight_decay_end=g.number(f"{cfg}optim.weight_decay_end"),
        freeze_last_layer=length("optim.freeze_last_layer_epochs"),
        momentum=g.number(f"{cfg}teacher.momentum_teacher"),
        momentum_end=g.number(f"{cfg}teacher.final_momentum_teacher"),
        teacher_temperature_start=g.number(f"{cfg}teacher.warmup_teacher_temp"),
        teacher_temperature=g.number(f"{cfg}teacher.teacher_temp"),
        teacher_temperature_warmup=length("teacher.warmup_teacher_temp_epochs"),
    )


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("shares", [False, True])
def test_golden(golden: Callable[[str], Golden], run: str, shares: bool) -> None:
    g = golden("schedules")
    recipe = golden_recipe(g, run, shares=shares)
    assert recipe.steps == g.size(f"{run}/cfg/total_iters")
    assert recipe.lr == pytest.approx(g.number(f"{run}/cfg/lr_after_scaling"), rel=1e-12)
    at = recipe.schedules()
    values = [at(int(step)) for step in g.arrays[f"{run}/idx"]]
    keys = {"lr": "lr", "weight_decay": "wd", "momentum": "momentum"}
    keys |= {"teacher_temperature": "teacher_temp", "last_layer_lr": "last_layer_lr"}
    for own, key in keys.items():
        got = np.array([getattr(value, own) for value in values])
        np.testing.assert_allclose(got, g.arrays[f"{run}/{key}"], rtol=1e-12, atol=1e-15)


def recipe(**changes: Any) -> OptimizationRecipe:
    return OptimizationRecipe(**{"steps": 100, "global_batch": 64, **changes})


def test_warmup_reaches_the_peak_twice() -> None:
    schedule = Cosine(1.0, 0.0, 20, warmup=5)
    assert [schedule(step) for step in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert 0 < schedule(19) < 0.02
    assert schedule(20) == schedule(1000) == 0.0


def test_hardly_any_warmup() -> None:
    """None starts at the peak; a single step of it is its first point."""
    assert Cosine(1.0, 0.0, 10)(0) == 1.0
    assert [Cosine(1.0, 0.0, 10, warmup=1)(step) for step in (0, 1)] == [0.0, 1.0]
    assert Warmup(0.04, 0.07, 0)(0) == 0.07
    assert [Warmup(0.04, 0.07, 1)(step) for step in (0, 1)] == [0.04, 0.07]


def test_delayed() -> None:
    schedule = Delayed(lambda step: 1.0 + step, until=2)
    assert [schedule(step) for step in range(4)] == [0, 0, 3, 4]


def test_shares_compress_the_same_recipe() -> None:
    long, short = recipe(steps=1000, warmup=0.1).schedules(), recipe(steps=100, warmup=0.1).schedules()
    assert long(99).lr == pytest.approx(short(9).lr)
    assert long(500).momentum == pytest.approx(short(50).momentum)


def test_one_is_a_number_of_steps() -> None:
    values = recipe(freeze_last_layer=1).schedules()
    assert values(0).last_layer_lr == 0
    assert values(1).last_layer_lr == values(1).lr > 0


@pytest.mark.parametrize(("rule", "factor"), [("sqrt", 0.25), ("linear", 0.0625), ("none", 1.0)])
def test_lr_rules(rule: str, factor: float) -> None:
    assert recipe(base_lr=0.1, lr_rule=rule).lr == pytest.approx(0.1 * factor)


def test_a_run_of_one_step() -> None:
    values = recipe(steps=1, warmup=0.16, freeze_last_layer=0.0).schedules()(0)
    assert isinstance(values, StepValues)
    assert values.lr > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("global_batch", 0),
        ("micro_batch", 0),
        ("base_lr", 0.0),
        ("lr_rule", "cubic"),
        ("lr_reference_batch", 0),
        ("min_lr", -1e-6),
        ("warmup", 100),
        ("warmup", -1),
        ("weight_decay", -0.1),
        ("weight_decay_end", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("eps", 0.0),
        ("clip_grad", 0.0),
        ("layerwise_decay", 0.0),
        ("layerwise_decay", 1.5),
        ("patch_embed_lr_multiplier", -1.0),
        ("freeze_last_layer", 500),
        ("momentum", 1.5),
        ("momentum_end", -0.1),
        ("teacher_temperature", 0.0),
        ("teacher_temperature_start", 0.0),
        ("teacher_temperature_warmup", 200),
    ],
)
def test_values_that_make_no_sense(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^optim\.{key}: got .*, expected .") as error:
        recipe(**{key: value})
    assert "\n" not in str(error.value)
