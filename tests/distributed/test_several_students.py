"""The training loop with several students: who waits, who is given up, and what is kept of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_distilled_training import assert_equal
from tiny_distillation import RECIPE, STUDENTS, Distilling, Options, batches, plain

from dinotrain.data.batch import Batch
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.world import World, join_world
from dinotrain.training.advice import Advisor
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.display import Display
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.learner import Learner
from dinotrain.training.loop import train
from dinotrain.training.manifest import checkpoint_step, complete_checkpoints
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.recorder import Evaluated, Recorder
from dinotrain.training.trackers import Trackers

STEPS = 6


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        with join_world("cpu", 1.0) as world:
            yield world


@dataclass
class Run:
    """A tiny run with its run folders."""

    folder: Path
    world: World
    options: Options
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __post_init__(self) -> None:
        self.tiny = Distilling(self.options, plain)
        self.learners = {name: self._learner(name) for name in self.options.students}

    def _learner(self, name: str) -> Learner:
        run_dir = self.folder / name
        checkpointer = Checkpointer(run_dir / "checkpoints", self.world, keep_last=9)
        recorder = Recorder(
            self.world,
            metrics=MetricsFile(run_dir / "metrics.jsonl"),
            display=Display(STEPS, interactive=False),
            trackers=Trackers(run_dir),
            advisor=Advisor(num_prototypes=None if self.options.features else tiny.PROTOTYPES, images=4),
            skips=SkipLog(run_dir / "skipped.txt", length=10, max_fraction=0.0),
            gpu_power=lambda: None,
            name=name,
        )
        state = self.tiny.states[name]
        return Learner(name, state, recorder, checkpointer, self._evaluate, run_dir, lambda: Evaluated({}))

    @staticmethod
    def _evaluate(step: int) -> Evaluated:
        return Evaluated({"knn": float(step)})

    def restore(self, other: Run, steps: dict[str, int]) -> Run:
        """Take over checkpoints, of the student that is behind last: its method is the one that counts."""
        for name, step in sorted(steps.items(), key=lambda item: -item[1]):
            path = other.folder / name / "checkpoints" / f"step_{step:08d}"
            self.learners[name].checkpointer.load(path, self.learners[name].state)
        return self

    def train(self, stop_at: int | None = None, **changes: Any) -> bool:
        """Whether some student is left, and all that are have come to the end."""
        start = min(state.step for state in self.tiny.states.values())
        settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2, "evaluate_every": 2, "clip_grad": 0.5}
        train(
            list(self.learners.values()),
            self._batches(start, stop_at),
            RECIPE.schedules(),
            teacher=self.tiny.teacher,
            micro_batches=self.options.micro_batches,
            world=self.world,
            interrupt=self.interrupt,
            **{**settings, **changes},
        )
        left = [learner for learner in self.learners.values() if learner.failure is None]
        return bool(left) and all(learner.state.step == STEPS for learner in left)

    def _batches(self, start: int, stop_at: int | None) -> Iterator[Batch]:
        for step in itertools.count(start):
            if step == stop_at:
                self.interrupt.requested = "SIGTERM"
            yield from batches(self.options, step)

    def rows(self, name: str, key: str) -> list[int]:
        """Steps of the rows that have a key."""
        return [row["step"] for row in self.learners[name].recorder.metrics.rows() if key in row]

    def checkpoints(self, name: str) -> list[int]:
        return [checkpoint_step(path) for path in complete_checkpoints(self.folder / name / "checkpoints")]


OPTIONS = {
    "prototypes": Options(targets="centering", micro_batches=2, drop_path=0.3),
    "features": Options(features=True, drop_path=0.3),
}


@pytest.fixture(scope="module", params=OPTIONS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, world: World) -> Run:
    """A run that nothing happened to."""
    run = Run(tmp_path_factory.mktemp("whole"), world, OPTIONS[request.param])
    assert run.train()
    return run


def test_each_student_has_its_own_records(whole: Run) -> None:
    for name in STUDENTS:
        assert whole.rows(name, "loss") == [1, 2, 3, 4, 5, 6]
        assert whole.rows(name, "knn") == [2, 4]
        assert whole.checkpoints(name) == [2, 4, 6]
        assert whole.tiny.states[name].step == STEPS
        assert not whole.rows(name, "warning")
    large, small = (
        [row["loss"] for row in whole.learners[name].recorder.metrics.rows() if "loss" in row] for name in STUDENTS
    )
    assert not set(large) & set(small)


@pytest.mark.parametrize("behind", STUDENTS)
def test_a_student_that_is_ahead_waits(whole: Run, behind: str, tmp_path: Path, world: World) -> None:
    (ahead,) = set(STUDENTS) - {behind}
    run = Run(tmp_path, world, whole.options).restore(whole, {behind: 2, ahead: 4})
    assert run.train()
    for name in STUDENTS:
        assert_equal(run.tiny.snapshot(name), whole.tiny.snapshot(name))
    assert (run.rows(behind, "loss"), run.rows(ahead, "loss")) == ([3, 4, 5, 6], [5, 6])
    assert (run.rows(behind, "knn"), run.rows(ahead, "knn")) == ([4], [])
    assert (run.checkpoints(behind), run.checkpoints(ahead)) == ([4, 6], [6])


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_student_that_is_given_up_does_not_hold_the_others(whole: Run, at: int, tmp_path: Path, world: World) -> None:
    """Also while another waits: that one must find the statistics of the teacher as it left them."""
    behind, ahead = STUDENTS
    start = {behind: 2, ahead: 4} if at >= 2 else {}
    run = Run(tmp_path, world, whole.options).restore(whole, start)
    poison_at(run, behind, at)
    assert run.train()
    assert_equal(run.tiny.snapshot(ahead), whole.tiny.snapshot(ahead))
    learner = run.learners[behind]
    assert learner.failure is not None
    assert learner.failure.startswith(f"{behind}: the loss or a gradient norm is not finite at step {at}; ")
    assert (learner.run_dir / f"nonfinite_step_{at}_process_0.json").exists()
    assert run.rows(behind, "warning") == [at]
    assert not run.rows(ahead, "warning")
    assert run.learners[ahead].failure is None
    assert run.rows(behind, "loss") == list(range(3, at + 1))
    assert max([0, *run.checkpoints(behind)]) <= at


def poison_at(run: Run, name: str, step: int) -> None:
    """The student's loss is NaN from a step on."""
    compare, victim = run.tiny.method.compare, run.tiny.states[name]

    def poisoned(student: Any, targets: Any, batch: Batch) -> Any:
        outcome = compare(student, targets, batch)
        bad = student is victim.student and victim.step >= step
        return outcome._replace(loss=outcome.loss * torch.nan) if bad else outcome

    run.tiny.method.compare = poisoned  # pyright: ignore


def test_when_all_are_given_up(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, Options(features=True))
    poison_at(run, "large", 3)
    poison_at(run, "small", 1)
    assert not run.train()
    assert [learner.state.step for learner in run.learners.values()] == [3, 1]
    assert all(learner.failure for learner in run.learners.values())
    assert (run.checkpoints("large"), run.checkpoints("small")) == ([2], [])


def test_a_single_student_is_not_told_of_others(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, Options(students=("large",)))
    poison_at(run, "large", 1)
    assert not run.train()
    assert not run.rows("large", "warning")


def test_a_stop_saves_all(tmp_path: Path, world: World, whole: Run) -> None:
    """And going on is going on bit for bit."""
    run = Run(tmp_path / "stopped", world, whole.options)
    assert not run.train(stop_at=2)
    assert all(run.checkpoints(name) == [2, 3] for name in STUDENTS)
    again = Run(tmp_path / "again", world, whole.options).restore(run, dict.fromkeys(STUDENTS, 3))
    assert again.train()
    for name in STUDENTS:
        assert_equal(again.tiny.snapshot(name), whole.tiny.snapshot(name))


def test_a_stop_while_one_waits(tmp_path: Path, world: World, whole: Run) -> None:
    behind, ahead = STUDENTS
    run = Run(tmp_path, world, whole.options).restore(whole, {behind: 2, ahead: 6})
    assert not run.train(stop_at=3)
    assert (run.checkpoints(behind), run.checkpoints(ahead)) == ([4], [])
    assert (run.rows(behind, "loss"), run.rows(ahead, "loss")) == ([3, 4], [])
