"""A run that does not go on is ended, and where everybody was is said."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from spawn import run_processes

from dinotrain.distributed import watch as module
from dinotrain.distributed.failure import Reports
from dinotrain.distributed.place import Place
from dinotrain.distributed.watch import STEPS_BEFORE_STEADY, Watch
from dinotrain.errors import Status


class Left(list):
    """The statuses with which a watch would have ended the process."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def __call__(self, status: int) -> None:
        self.append(status)
        self.told.set()


def watch(left: Left, *, start: float, steady: float, reports: Reports | None = None) -> Watch:
    place = Place(0, 1, 0, 1, "here", "1.0")
    return Watch(place, reports, start_minutes=start / 60, minutes=steady / 60, leave=left)


def move(watch: Watch, seconds: float, step: int | None = None) -> None:
    """Moves all the time, for some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch.at("training", step)
        time.sleep(0.01)


def test_what_moves_is_left_alone() -> None:
    with watch(left := Left(), start=2.0, steady=2.0) as watching:
        move(watching, 3.5)
    assert not left


def test_a_folder_that_can_not_be_written_to_does_not_keep_it_alive(tmp_path: Path, capsys) -> None:
    (tmp_path / "failures").write_text("")
    with watch(left := Left(), start=0.3, steady=0.3, reports=Reports(tmp_path, "1.0")):
        assert left.told.wait(20)
    said = capsys.readouterr().err
    assert "the report could not be written" in said
    assert "test_a_folder_that_can_not_be_written_to_does_not_keep_it_alive" in said


class Stuck(Reports):
    """On a file system that does not answer."""

    def add(self, report: object) -> None:
        time.sleep(60)


def test_a_file_system_that_hangs_does_not_keep_it_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
    watching = watch(left := Left(), start=0.3, steady=0.3, reports=Stuck(tmp_path, "1.0"))
    watching._thread.start()
    assert left.told.wait(20)


def test_a_save_under_way_is_in_the_report(tmp_path: Path) -> None:
    done = threading.Event()
    threading.Thread(target=done.wait, args=(30,), name=module.CHECKPOINT_THREAD, daemon=True).start()
    with watch(left := Left(), start=0.3, steady=0.3, reports=Reports(tmp_path, "1.0")):
        assert left.told.wait(20)
    done.set()
    assert "the save under way:" in (tmp_path / "failure.txt").read_text()


def test_what_stands_still_is_ended_with_its_stack(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with watch(left := Left(), start=0.3, steady=0.3, reports=Reports(tmp_path, "1.0")) as watching:
        watching.at("waiting for images", 7)
        assert left.told.wait(20)
    assert left == [Status.FAULT]
    text = (tmp_path / "failure.txt").read_text()
    assert "process 0 on here did not go on: waiting for images at step 7 for more than 0.005 min" in text
    assert "test_what_stands_still_is_ended_with_its_stack" in text
    assert "test_what_stands_still_is_ended_with_its_stack" in capsys.readouterr().err


def test_patience_ends_after_some_steps(tmp_path: Path) -> None:
    with watch(left := Left(), start=60, steady=0.3) as watching:
        watching.at("training", 100)
        assert not left.told.wait(1.0)
        watching.at("training", 100 + STEPS_BEFORE_STEADY)
        assert left.told.wait(20)


def test_evaluations_may_take_as_long_as_the_start() -> None:
    with watch(left := Left(), start=60, steady=0.3) as watching:
        watching.at("training", 0)
        watching.at("training", STEPS_BEFORE_STEADY)
        watching.at("evaluating", patient=True)
        assert not left.told.wait(1.0)
        watching.at("training")
        assert left.told.wait(20)


def _stand_still(rank: int) -> tuple[float, float]:
    """Is suspended for longer than it may stand, and goes on."""
    with watch(left := Left(), start=6.0, steady=6.0) as watching:
        watching.at("training")
        # A child wakes it up: suspended it can't do so itself.
        if os.fork() == 0:
            time.sleep(7.0)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)
        assert not left.told.wait(2.0)
        remembered = watching.stood_still
        watching.at("training")
        return remembered, watching.stood_still


def test_a_process_that_was_suspended_goes_on_and_remembers_until_it_has_moved() -> None:
    ((remembered, later),) = run_processes(1, _stand_still)
    assert 5.0 < remembered < 60.0
    assert later == 0.0


def _hang(rank: int, folder: str) -> tuple[list[int], str]:
    """Process 1 sleeps where the others wait for it in a collective."""
    module.GRACE_SECONDS = 5.0
    left = Left()
    place = Place(rank, 3, rank, 3, f"node{rank}", "1.0")
    reports = Reports(Path(folder), "1.0")
    if rank == 0:
        reports.begin(["node0", "node1", "node2"])
    dist.barrier()
    with Watch(place, reports, start_minutes=1.0, minutes=1.0 / 60, leave=left) as watching:
        for step in range(STEPS_BEFORE_STEADY + 1):
            watching.at("training", step)
            dist.all_reduce(torch.zeros(1))
        if rank == 1:
            watching.at("waiting for images")
            left.told.wait(30)
        dist.all_reduce(torch.zeros(1))
        left.told.wait(30)
    dist.barrier()
    return list(left), (Path(folder) / "failure.txt").read_text()


def test_the_process_that_the_others_wait_for_is_named(tmp_path: Path) -> None:
    found = run_processes(3, _hang, str(tmp_path))
    assert [left for left, _ in found] == [[Status.FAULT]] * 3
    first = found[0][1].splitlines()[0]
    assert "process 1 on node1 did not go on: waiting for images at step 3" in first
    assert "processes 0, 2 on node0, node2: did not go on, step 3, training" in found[0][1]
