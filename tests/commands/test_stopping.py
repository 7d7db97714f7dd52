"""A run that is asked to stop while it evaluates does so at once, and loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from real_runs import DISTILLED, TEACHER, assert_same_run, results, rows, run_here
from torch import Tensor

from dinotrain.commands.ending import Ended, Status
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.evaluation import features, knn_probe
from dinotrain.evaluation.features import Features
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.manifest import checkpoint_step, complete_checkpoints

# Fifteen batches of two images: ten to search in, five to classify.
SLOW = ("evaluation.every=3", "evaluation.batch=2", "evaluation.max_test=10", "checkpoint.every=100")
BATCHES = 15


class Evaluations:
    """Counts the batches of all evaluations, and stops the process in one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen, self.stop_at, self.number = 0, -1, signal.SIGTERM
        original = features.extract

        def extract(function: Callable[[Tensor], Tensor], source: Source, indices: np.ndarray, **more: Any) -> Features:
            return original(lambda images: self._see(function, images), source, indices, **more)

        patch.setattr(knn_probe, "extract", extract)

    def _see(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        self.seen += 1
        if self.seen == self.stop_at:
            os.kill(os.getpid(), self.number)
        return function(images)

    def stop(self, at: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.seen, self.stop_at, self.number = 0, at, number


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    return Evaluations(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here(*TEACHER, *SLOW, f"output_dir={folder}")
    return folder


def checkpoints(run_dir: Path) -> list[int]:
    return [checkpoint_step(path) for path in complete_checkpoints(run_dir / "checkpoints")]


def events(run_dir: Path) -> list[tuple[str, int]]:
    return [(row["event"], row["step"]) for row in rows(run_dir) if "event" in row]


def evaluated(run_dir: Path) -> list[int]:
    return [row["step"] for row in rows(run_dir) if row.get("evaluated")]


# Two baselines come before the first step: the untrained network, and pixels.
@pytest.mark.parametrize(
    ("batch", "step"),
    [
        (2, 0),
        (BATCHES + 2, 0),
        (2 * BATCHES + 3, 3),
        (2 * BATCHES + 12, 3),
        (3 * BATCHES + 3, 6),
    ],
    ids=["baseline", "pixels", "bank", "queries", "last"],
)
def test_a_signal_in_an_evaluation(
    whole: Path, tmp_path: Path, evaluations: Evaluations, batch: int, step: int
) -> None:
    words = (*TEACHER, *SLOW, f"output_dir={tmp_path / 'run'}")
    evaluations.stop(at=batch)
    stopped = run_here(*words, status=75)
    assert f"stopped at step {step} of 6" in stopped.out
    assert evaluations.seen == batch
    assert checkpoints(tmp_path / "run") == [at for at in (3, 6) if at <= step]
    assert evaluated(tmp_path / "run") == [at for at in (0, 3, 6) if at < step]
    assert not results(tmp_path / "run")["finished"]
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    evaluations.stop(at=-1)
    done = run_here(*words)
    assert "already finished" not in done.out
    assert events(tmp_path / "run") == [("interrupted", step), ("resume", step)]
    assert evaluated(tmp_path / "run") == [0, 3, 6]
    assert results(tmp_path / "run")["finished"]
    assert (tmp_path / "run" / "backbone.safetensors").exists()
    assert_same_run(whole, tmp_path / "run")


def test_what_is_made_up_for_can_be_stopped_too(whole: Path, tmp_path: Path, evaluations: Evaluations) -> None:
    words = (*TEACHER, *SLOW, f"output_dir={tmp_path / 'run'}")
    evaluations.stop(at=3 * BATCHES + 1)
    run_here(*words, status=75)
    evaluations.stop(at=4)
    again = run_here(*words, status=75)
    assert "all 6 steps are done, only the last evaluation is missing" in again.out
    assert evaluations.seen == 4
    evaluations.stop(at=-1)
    run_here(*words)
    assert evaluations.seen == BATCHES
    assert_same_run(whole, tmp_path / "run")
    assert "already finished" in run_here(*words).out


def test_no_evaluation_is_begun_after_a_signal(whole: Path, tmp_path: Path, evaluations: Evaluations) -> None:
    words = (*TEACHER, *SLOW, f"output_dir={tmp_path / 'run'}")
    run_here(*words, stop_after=3)
    assert evaluations.seen == 2 * BATCHES
    run_here(*words, stop_after=6)
    assert evaluations.seen == 3 * BATCHES
    assert checkpoints(tmp_path / "run") == [3, 6]
    run_here(*words)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("at", [1, BATCHES + 1], ids=["first", "second"])
def test_of_several_students_all_are_saved(teacher: Path, tmp_path: Path, evaluations: Evaluations, at: int) -> None:
    sizes = "model: vit_tiny, image_size: 24, patch_size: 6, num_heads: 2, embed_dim: 16"
    lists = f"students=[{{name: one, depth: 1, {sizes}}},{{name: two, depth: 2, {sizes}}}]"
    words = (*DISTILLED, *SLOW, lists, f"teacher.weights={teacher}")
    run_here(*words, f"output_dir={tmp_path / 'whole'}")
    # The baselines of two students, and what both are held against: pixels and teacher.
    evaluations.stop(at=4 * BATCHES + at)
    run_here(*words, f"output_dir={tmp_path / 'run'}", status=75)
    assert evaluations.seen == 4 * BATCHES + at
    assert checkpoints(tmp_path / "run" / "one") == checkpoints(tmp_path / "run" / "two") == [3]
    assert evaluated(tmp_path / "run" / "one") == ([0, 3] if at > 1 else [0])
    assert evaluated(tmp_path / "run" / "two") == [0]
    run_here(*words, f"output_dir={tmp_path / 'run'}")
    for name in ("one", "two"):
        assert_same_run(tmp_path / "whole" / name, tmp_path / "run" / name)


def test_the_signal_is_on_record(tmp_path: Path, evaluations: Evaluations) -> None:
    evaluations.stop(at=1, number=signal.SIGUSR2)
    run_here(*TEACHER, *SLOW, f"output_dir={tmp_path}", status=75)
    (event,) = (row for row in rows(tmp_path) if "event" in row)
    assert event["reason"] == "SIGUSR2"


class FewHeard:
    """The part of a world in which others were asked to stop."""

    def __init__(self, *others: str | None) -> None:
        self.others = others

    def gather(self, own: str | None) -> list[str | None]:
        return [own, *self.others]

    def any(self, flag: bool) -> bool:
        return flag or any(self.others)


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (None, (None, "SIGTERM"), "SIGTERM"),
        (None, ("SIGINT", "SIGTERM"), "SIGINT"),
        ("SIGTERM", (None, "SIGUSR2"), "SIGUSR2"),
        ("SIGUSR2", ("SIGTERM", None), "SIGUSR2"),
        ("SIGTERM", (None, None), "SIGTERM"),
    ],
)
def test_all_processes_agree_on_the_signal(own: str | None, others: tuple[str | None, ...], expected: str) -> None:
    interrupt, world = Interrupt(), cast(World, FewHeard(*others))
    interrupt.requested = own
    assert interrupt.anywhere(world)
    assert interrupt.agree(world) == interrupt.requested == expected


def test_a_run_without_its_last_evaluation_is_stopped() -> None:
    assert Ended(6, 6, "SIGTERM", done=False).status == Status.STOPPED
    assert Ended(6, 6, None, done=True).status == Status.DONE
