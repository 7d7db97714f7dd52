"""Several students of one frozen teacher, and distillation on several processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import assert_near
from spawn import run_processes
from tiny_distillation import STUDENTS, Distilling, Options, plain, run_plain, run_sharded, sharded

from dinotrain.training.step import SMALLEST_SCALE, NonFiniteError, StepResult


def assert_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit for bit."""
    assert set(got) == set(expected)
    for part, value in expected.items():
        if isinstance(value, dict):
            assert_equal(got[part], value)
        else:
            assert torch.equal(got[part], value) if isinstance(value, torch.Tensor) else got[part] == value, part


def assert_same(got: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert_near(got["seen"], expected["seen"], tolerance, tolerance)
    for part in ("student", "ema", "method"):
        assert set(got[part]) == set(expected[part])
        for name, value in expected[part].items():
            assert_near(got[part][name], value, tolerance, tolerance)


TOGETHER = {
    "prototypes": Options(koleo_weight=0.1, drop_path=0.3),
    "prototypes, shared head": Options(shared=True, targets="centering", drop_path=0.05),
    "prototypes, micro-batches": Options(targets="centering", micro_batches=2, drop_path=0.3),
    "features": Options(features=True, drop_path=0.3),
    "features, micro-batches": Options(features=True, micro_batches=2, drop_path=0.3),
}


@pytest.mark.parametrize("options", TOGETHER.values(), ids=TOGETHER)
def test_each_student_is_as_it_would_be_alone(options: Options) -> None:
    together = run_plain(options)
    for name in STUDENTS:
        assert_equal(together[name], run_plain(replace(options, students=(name,)))[name])
    swapped = run_plain(replace(options, students=STUDENTS[::-1]))
    for name in STUDENTS:
        assert_equal(swapped[name], together[name])


SHARDED = {
    "prototypes, shared head": Options(shared=True),
    "prototypes, micro-batches": Options(micro_batches=2),
    "prototypes, centering, micro-batches, replicas": Options(targets="centering", micro_batches=2, shard_size=1),
    "features": Options(features=True),
    "features, micro-batches": Options(features=True, micro_batches=2),
    "features, replicas": Options(features=True, shard_size=1),
}
"""Runs without draws and without terms that look within a process."""


def _runs(rank: int, cases: list[Options]) -> list[dict[str, Any]]:
    return [run_sharded(rank, options) for options in cases]


def test_two_processes_equal_one() -> None:
    cases = [replace(options, steps=2) for options in SHARDED.values()]
    for result in run_processes(2, _runs, cases):
        for name, options, got in zip(SHARDED, cases, result, strict=True):
            expected = run_plain(options)
            for student in STUDENTS:
                print(name, student)  # shown where the comparison fails
                assert_same(got[student], expected[student])


@pytest.mark.parametrize("options", [Options(targets="centering"), Options(features=True, warm=True)])
def test_micro_batches_equal_one_batch(options: Options) -> None:
    """Where no loss looks across images: for features once there are statistics of an earlier step."""
    whole = run_plain(options)
    for parts in (2, 4):
        split = run_plain(replace(options, micro_batches=parts))
        for name in STUDENTS:
            assert_same(split[name], whole[name])


def test_two_sharded_students_are_as_they_would_be_alone() -> None:
    options = Options(koleo_weight=0.1, drop_path=0.3, micro_batches=2, steps=2)
    cases = [options, *(replace(options, students=(name,)) for name in STUDENTS)]
    for together, *alone in run_processes(2, _runs, cases):
        for name, own in zip(STUDENTS, alone, strict=True):
            assert_equal(together[name], own[name])


def in_trouble(rank: int, size: int, options: Options, build: Any, victim: str, factor: float) -> dict[str, Any]:
    """Three steps; in the second, the loss of one student is not finite on the last process."""
    run = Distilling(options, build, rank, size)
    run.step(0)
    before = run.snapshot(victim)
    if rank == size - 1:
        run.poison(victim, factor)
        results = run.step(1)
        run.cure()
    else:
        results = run.step(1)
    assert all(p.grad is None for state in run.states.values() for p in state.student.parameters())
    after, result = run.snapshot(victim), results[victim]
    if isinstance(result, NonFiniteError):
        del run.states[victim]
    run.step(2)
    return {
        "before": before,
        "after": after,
        "error": str(result) if isinstance(result, NonFiniteError) else None,
        "skipped": {name: r.skipped for name, r in results.items() if isinstance(r, StepResult)},
        "end": {name: run.snapshot(name) for name in STUDENTS if name in run.states},
    }


def assert_held(out: dict[str, Any], *parts: str) -> None:
    """Of the victim, what must not have moved."""
    for part in parts:
        assert_equal(out["after"][part], out["before"][part])


def assert_unharmed(out: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    """The other student is as it would be alone."""
    assert_equal(out["end"][name], {part: value for part, value in expected[name].items() if part != "seen"})


@pytest.mark.parametrize("factor", [torch.nan, torch.inf])
@pytest.mark.parametrize(("victim", "other"), [STUDENTS, STUDENTS[::-1]])
@pytest.mark.parametrize("options", [Options(targets="centering", micro_batches=2), Options(features=True)])
def test_a_student_that_is_not_finite_is_not_updated(options: Options, victim: str, other: str, factor: float) -> None:
    out = in_trouble(0, 1, options, plain, victim, factor)
    assert out["error"] == "the loss or a gradient norm is not finite at step 1"
    assert_held(out, "student", "ema", "moments", "numbers")
    assert_unharmed(out, run_plain(replace(options, students=(other,))), other)


@pytest.mark.parametrize(("victim", "other"), [STUDENTS, STUDENTS[::-1]])
@pytest.mark.parametrize(
    "options", [Options(scales=(2.0**10, 2.0**9)), Options(features=True, scales=(2.0**9, 2.0**10))]
)
def test_an_overflow_is_skipped_by_its_student_alone(options: Options, victim: str, other: str) -> None:
    out = in_trouble(0, 1, options, plain, victim, torch.inf)
    assert_skipped(out, options, victim)
    assert_unharmed(out, run_plain(replace(options, students=(other,))), other)


def test_a_student_that_no_scale_helps() -> None:
    victim, other = STUDENTS
    options = Options(scales=(SMALLEST_SCALE, 2.0**10))
    out = in_trouble(0, 1, options, plain, victim, torch.inf)
    assert out["error"] is not None
    assert out["error"].startswith("every step overflows in fp16, ")
    assert_held(out, "student", "ema", "moments")
    assert out["after"]["numbers"]["step"] == 1
    assert_unharmed(out, run_plain(replace(options, students=(other,))), other)


def assert_skipped(out: dict[str, Any], options: Options, victim: str) -> None:
    assert out["error"] is None
    assert out["skipped"] == {name: name == victim for name in STUDENTS}
    assert_held(out, "student", "ema", "moments")
    before, after, end = out["before"]["numbers"], out["after"]["numbers"], out["end"][victim]["numbers"]
    assert (before["step"], after["step"], end["step"]) == (1, 2, 3)
    assert after["skipped_steps"] == end["skipped_steps"] == 1
    assert after["scaler"]["scale"] == end["scaler"]["scale"] == options.scales[STUDENTS.index(victim)] / 2
    moved, held = (x["student"]["backbone.pos_embed"] for x in (out["end"][victim], out["after"]))
    assert not torch.equal(moved, held)


TROUBLED = [
    Options(targets="centering"),
    Options(features=True, precision="fp16", scales=(2.0**7, 2.0**8), shard_size=1),
]


def _troubles(rank: int, victim: str, other: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        (
            in_trouble(rank, 2, options, sharded, victim, torch.nan),
            run_sharded(rank, replace(options, students=(other,))),
        )
        for options in TROUBLED
    ]


def test_trouble_on_one_process_is_that_of_one_student_on_all() -> None:
    victim, other = STUDENTS
    for result in run_processes(2, _troubles, victim, other):
        for options, (out, expected) in zip(TROUBLED, result, strict=True):
            if options.precision == "fp16":
                assert_skipped(out, options, victim)
            else:
                assert out["error"] == "the loss or a gradient norm is not finite at step 1"
                assert_held(out, "student", "ema", "moments", "numbers")
            assert_unharmed(out, expected, other)


def test_statistics_of_the_teacher_move_though_all_students_fail() -> None:
    """They are of the batches, which other students of the run may have seen before and wait for."""
    run, well = (Distilling(Options(features=True, students=("large",)), plain) for _ in range(2))
    run.poison("large", torch.nan)
    assert isinstance(run.step(0)["large"], NonFiniteError)
    assert isinstance(well.step(0)["large"], StepResult)
    assert_equal(run.snapshot("large")["method"], well.snapshot("large")["method"])
