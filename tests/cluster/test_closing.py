"""What a job's script makes of the end of its tasks: how it ended, and whether it runs again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dinotrain.cluster.closing import judge, killed_tasks, main
from dinotrain.cluster.record import Record
from dinotrain.distributed.failure import Report, Reports

JOB = "12"
KILLED = """\
dinotrain: start 0 on node[0-1], Sat Nov 21
srun: error: node1: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=12.0
srun: error: node0: tasks 0-2: Exited with exit code 70
"""


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Of a run that has been submitted."""
    folder = tmp_path / "run" / "jobs" / "0001"
    (folder / "logs").mkdir(parents=True)
    made = Record(
        path=folder.with_suffix(".json"),
        job=JOB,
        folder=str(folder),
        logs=str(folder / "logs"),
        requeues=2,
        restart_on_failure=1,
    )
    made.write()
    (folder / "logs" / "records.json").write_text(json.dumps([str(made.path)]))
    return made


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says what the file beside it says of a job, and writes down what it is asked."""
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {tmp_path}/said 2>/dev/null\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "said"


def outcome(record: Record, restart: int, requested: str | None, step: int = 5) -> None:
    said = {"outcome": "stopped" if requested else "done", "step": step, "steps": 9, "requested": requested}
    Path(record.folder, f"outcome.{restart}.json").write_text(json.dumps(said))


def log(record: Record, text: str, rank: int = 0) -> None:
    Path(record.logs, f"{JOB}_{rank}_log.out").write_text(text)


def report(record: Record, process: int, kind, reason: str, restart: int = 0) -> None:
    reports = Reports(Path(record.folder).parents[1], f"{JOB}.{restart}")
    made = Report(process=process, host="node1", kind=kind, reason=reason, step=7, doing="training", stack="", time=1.0)
    reports.add(made)


def test_done(record: Record) -> None:
    outcome(record, 0, None, step=9)
    ending = judge(record, JOB, 0, 0)
    assert (ending.outcome, ending.then, ending.step) == ("done", "ended", 9)


def test_the_signal_of_a_time_limit_or_preemption_is_followed_by_a_restart(record: Record) -> None:
    outcome(record, 1, "SIGUSR2")
    ending = judge(record, JOB, 1, 0)
    assert (ending.outcome, ending.then, ending.reason) == ("stopped", "requeued", "stopped by SIGUSR2 at step 5 of 9")


def test_not_more_often_than_is_allowed(record: Record) -> None:
    outcome(record, 2, "SIGUSR2")
    ending = judge(record, JOB, 2, 0)
    assert ending.then == "ended"
    assert "cluster.requeues: 2 restarts are made" in ending.reason


def test_restarts_after_failures_are_not_counted_as_requeues(record: Record) -> None:
    Path(record.folder, "ended.jsonl").write_text(json.dumps({"outcome": "failed"}) + "\n")
    outcome(record, 2, "SIGUSR2")
    assert judge(record, JOB, 2, 0).then == "requeued"


def test_the_signal_that_came_before_anybody_could_catch_it(record: Record) -> None:
    ending = judge(record, JOB, 0, 128 + 12)
    assert (ending.outcome, ending.then) == ("stopped", "requeued")


def test_the_signal_that_came_before_some_could_catch_it(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nsrun: error: node1: task 1: User defined signal 2\n")
    assert judge(record, JOB, 0, 137).then == "requeued"


def test_a_cancelled_job_does_not_run_again(record: Record) -> None:
    record.cancelled.touch()
    log(record, "dinotrain: start 0 on x, y\nsrun: error: node1: task 1: Terminated\n")
    ending = judge(record, JOB, 0, 143)
    assert (ending.outcome, ending.then) == ("stopped", "ended")
    outcome(record, 0, "SIGUSR2")
    assert judge(record, JOB, 0, 0).then == "ended"


def test_a_stop_for_good(record: Record, scontrol: Path) -> None:
    scontrol.write_text("JobId=12 PreemptEligibleTime=2026-11-21T10:00:00 PreemptTime=None Foo=1\n")
    outcome(record, 0, "SIGTERM")
    assert judge(record, JOB, 0, 0).then == "ended"


def test_a_preemption_that_sends_sigterm_only(record: Record, scontrol: Path) -> None:
    scontrol.write_text("JobId=12 PreemptEligibleTime=2026-11-21T10:00:00 PreemptTime=2026-11-21T10:00:05 Foo=1\n")
    outcome(record, 0, "SIGTERM")
    assert judge(record, JOB, 0, 0).then == "requeued"


def test_a_killed_process(record: Record) -> None:
    log(record, KILLED)
    report(record, 0, "lost", "connection closed")
    ending = judge(record, JOB, 0, 137)
    assert (ending.outcome, ending.then, ending.step) == ("failed", "requeued", 7)
    assert ending.reason == "process 3 on node1: ended by: Killed"
    assert "process 3 on node1: ended by: Killed" in Path(record.folder).parents[1].joinpath("failure.txt").read_text()


def test_only_the_first_to_end_is_to_blame(record: Record) -> None:
    log(record, KILLED)
    assert killed_tasks(record) == {3: ("node1", "ended by: Killed")}


def test_earlier_starts_in_the_same_log_do_not_count(record: Record) -> None:
    log(record, KILLED + "dinotrain: start 1 on node[0-1], Sun\nsrun: error: node0: tasks 0,2: Segmentation fault\n")
    assert killed_tasks(record) == dict.fromkeys((0, 2), ("node0", "ended by: Segmentation fault"))


def test_a_process_that_could_not_even_start_is_quoted(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nsrun: error: node1: task 1: Exited with exit code 1\n")
    log(record, "Traceback ...\nModuleNotFoundError: No module named 'torch'\n\n", rank=1)
    reason = judge(record, JOB, 0, 1).reason
    said = "exited with exit code 1; its last words: ModuleNotFoundError: No module named 'torch'"
    assert reason == f"process 1 on node1: {said}"


def test_srun_itself_fails(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nsrun: error: Unable to create step: Invalid account\n")
    assert judge(record, JOB, 0, 1).reason == "Unable to create step: Invalid account"


def test_too_many_failures(record: Record) -> None:
    Path(record.folder, "ended.jsonl").write_text(json.dumps({"outcome": "failed"}) + "\n")
    report(record, 1, "error", "ValueError: x", restart=1)
    ending = judge(record, JOB, 1, 70)
    assert ending.then == "ended"
    assert ending.reason == "process 1 on node1: ValueError: x; cluster.restart_on_failure: 1 restarts are made"


def test_a_mistake_of_the_users_is_not_tried_again(record: Record) -> None:
    report(record, 0, "refused", "data.root: /gone does not exist")
    ending = judge(record, JOB, 0, 1)
    assert (ending.then, ending.reason) == ("ended", "process 0 on node1: data.root: /gone does not exist")


def test_nodes_that_do_not_see_the_run_folder(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\ndinotrain: node7 does not see /a b\ndinotrain: node2 does not see /a b\n")
    reason = judge(record, JOB, 0, 1).reason
    assert reason == "node2, node7: no such folder there: /a b; the run folder has to be on a path that all nodes share"


@pytest.mark.parametrize(("requested", "status"), [(None, 0), ("SIGTERM", 75)])
def test_the_jobs_exit_status(
    record: Record, monkeypatch: pytest.MonkeyPatch, capsys, requested: str | None, status: int
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    outcome(record, 0, requested)
    assert main([str(Path(record.logs, "records.json")), "0"]) == status
    (line,) = Path(record.folder, "ended.jsonl").read_text().splitlines()
    assert json.loads(line)["then"] == "ended"
    assert capsys.readouterr().out.startswith("dinotrain: ")


def test_a_requeue_is_asked_for(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    monkeypatch.setattr("dinotrain.cluster.closing.REQUEUE_SECONDS", 0)
    outcome(record, 0, "SIGUSR2")
    main([str(Path(record.logs, "records.json")), "0"])
    assert (tmp_path / "asked").read_text() == f"requeue {JOB}\n"


def test_an_element_of_an_array(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # That of the last element is the number of the whole array.
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr("dinotrain.cluster.closing.REQUEUE_SECONDS", 0)
    record = replace(record, job="12_1")
    record.write()
    Path(record.logs, "records.json").write_text(json.dumps(["/nowhere", str(record.path)]))
    outcome(record, 0, "SIGUSR2")
    main([str(Path(record.logs, "records.json")), "0"])
    assert (tmp_path / "asked").read_text() == "requeue 12_1\n"
