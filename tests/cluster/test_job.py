"""What each task of a job does before and after training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from answering_slurm import make_record

from dinotrain.cluster.closing import judge
from dinotrain.cluster.record import Record, latest
from dinotrain.commands import job as tasks
from dinotrain.commands.ending import Ended

Start = Callable[[Record], str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Does what a task does, but for the training."""
    monkeypatch.chdir(tmp_path)
    for name in ("SUBMITIT_LOCAL_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_NUM_TASKS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(tasks.Job, "work", lambda *_: Ended(5, 9, "SIGTERM", False))
    return lambda record: tasks.Job(str(record.path))()


def submitted(tmp_path: Path, **values: object) -> Record:
    (tmp_path / "here").mkdir(exist_ok=True)
    return make_record(tmp_path / "run", **({"cwd": str(tmp_path / "here"), "restart_on_failure": 9} | values))  # pyright: ignore[reportArgumentType]


def test_it_runs_where_it_was_submitted(tmp_path: Path, start: Start) -> None:
    record = submitted(tmp_path)
    start(record)
    assert Path.cwd() == tmp_path / "here"
    assert json.loads(record.outcome(0).read_text())["step"] == 5


def test_a_place_that_the_node_does_not_see_is_no_fault_that_passes(tmp_path: Path, start: Start, capsys) -> None:
    record = submitted(tmp_path)
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(SystemExit) as caught:
        start(record)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: submitted from {tmp_path}/here, which node7 does not see (No such file")
    ending = judge(record, "12", 0, 1)
    assert (ending.outcome, ending.then) == ("failed", "ended")
    assert "submitted from" in ending.reason


def test_a_damaged_record_is_a_line(tmp_path: Path, start: Start, capsys) -> None:
    record = submitted(tmp_path)
    record.path.write_text("{")
    with pytest.raises(SystemExit) as caught:
        start(record)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {record.path}: can't be read")


def test_a_job_whose_submitter_was_killed_says_who_it_is(tmp_path: Path, start: Start) -> None:
    record = submitted(tmp_path, job=None)
    assert latest(tmp_path / "run") is None
    start(record)
    found = latest(tmp_path / "run")
    assert found == replace(record, job="12")


def test_a_cancelled_job_is_told_so(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    record = submitted(tmp_path)
    record.cancelled.touch()
    monkeypatch.setattr(tasks.Job, "work", lambda *given: Ended(0, 9, given[-1].requested, False))
    start(record)
    assert json.loads(record.outcome(0).read_text())["requested"] == "SIGTERM"
