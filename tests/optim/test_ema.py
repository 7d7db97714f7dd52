"""The moving average on plain networks (on sharded ones: tests/distributed)."""

from __future__ import annotations

from reference import assert_near
from tiny import networks

from dinotrain.optim.ema import MovingAverage


def test_update_and_copy() -> None:
    teacher, student = networks(0), networks(1)
    before = [p.detach().clone() for p in teacher.parameters()]
    average = MovingAverage(teacher, student)
    average.update(0.75)
    for t, old, s in zip(teacher.parameters(), before, student.parameters()):
        assert_near(t, 0.75 * old + 0.25 * s, 1e-6)
        assert t.grad is None
    average.copy()
    for t, s in zip(teacher.parameters(), student.parameters()):
        assert_near(t, s, 0.0)


def test_a_momentum_of_one_leaves_the_teacher_alone() -> None:
    teacher = networks(0)
    before = [p.detach().clone() for p in teacher.parameters()]
    MovingAverage(teacher, networks(1)).update(1.0)
    for t, old in zip(teacher.parameters(), before):
        assert_near(t, old, 0.0)
