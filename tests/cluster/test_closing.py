"""What a job's script makes of the end of its tasks: how it ended, and whether it runs again."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dinotrain.cluster.closing import judge, main, preempted, requeue
from dinotrain.cluster.record import Record, latest
from dinotrain.distributed.failure import Report, Reports

JOB = "12"
KILLED = """\
dinotrain: start 0 on node[0-1], Sat Nov 21
srun: error: node1: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=12.0
srun: error: node0: tasks 0-2: Exited with exit code 70
"""
SCONTROL = """#!/bin/sh
echo "$@" >> {folder}/asked
if [ -s {folder}/refusals ]; then
  head -n 1 {folder}/refusals >&2
  sed -i 1d {folder}/refusals
  exit 1
fi
cat {folder}/said 2>/dev/null
exit 0
"""
RESTARTING = "slurm_requeue error: Unable to contact slurm controller (connect failure)\n"


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
    """Says what this file says of a job, writes down what it is asked, and refuses as often as there are lines."""
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(SCONTROL.format(folder=tmp_path))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("REQUEUE_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(f"dinotrain.cluster.closing.{name}", 0)
    monkeypatch.setattr("dinotrain.cluster.closing.QUESTION_PAUSES", (0, 0, 0))
    return tmp_path / "said"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the job's script."""
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    for name in ("SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)


def outcome(record: Record, restart: int, requested: str | None, step: int = 5) -> None:
    said = {"outcome": "stopped" if step < 9 else "done", "step": step, "steps": 9, "requested": requested}
    record.outcome(restart).write_text(json.dumps(said))


def ended(record: Record, *rows: tuple[str, int | None], then: str = "requeued") -> None:
    """How earlier starts ended, and at which step."""
    lines = [{"outcome": each, "step": step, "then": then, "restart": index} for index, (each, step) in enumerate(rows)]
    Path(record.folder, "ended.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines_of(record: Record) -> list[dict]:
    return [json.loads(line) for line in Path(record.folder, "ended.jsonl").read_text().splitlines()]


def close(record: Record, status: int = 0) -> int:
    return main([str(Path(record.logs, "records.json")), str(status)])


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
    ended(record, ("stopped", 1), ("stopped", 3))
    outcome(record, 2, "SIGUSR2")
    ending = judge(record, JOB, 2, 0)
    assert ending.then == "ended"
    assert "cluster.requeues: 2 restarts are made" in ending.reason


def test_only_restarts_after_a_stop_in_order_count_as_requeues(record: Record) -> None:
    # Failures, and starts that SLURM cut off: of those there is no line.
    ended(record, ("failed", 3), ("failed", 3), ("stopped", 4))
    outcome(record, 7, "SIGUSR2")
    assert judge(record, JOB, 7, 0).then == "requeued"


def test_the_signal_that_came_before_some_could_catch_it(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nstep 1srun: error: node1: tasks 1,3: User defined signal 2\n")
    ending = judge(record, JOB, 0, 137)
    assert (ending.outcome, ending.then, ending.reason) == ("stopped", "requeued", "stopped by SIGUSR2 while starting")


def test_a_cancelled_job_does_not_run_again(record: Record) -> None:
    record.cancelled.touch()
    log(record, "dinotrain: start 0 on x, y\nsrun: error: node1: task 1: Terminated\n")
    ending = judge(record, JOB, 0, 143)
    assert (ending.outcome, ending.then) == ("stopped", "ended")
    outcome(record, 0, "SIGUSR2")
    assert judge(record, JOB, 0, 0).then == "ended"


@pytest.mark.parametrize("requested", ["SIGTERM", None])
def test_a_stop_for_good(record: Record, scontrol: Path, requested: str | None) -> None:
    scontrol.write_text("JobId=12 PreemptEligibleTime=2026-11-21T10:00:00 PreemptTime=None Foo=1\n")
    outcome(record, 0, requested)
    ending = judge(record, JOB, 0, 0)
    assert (ending.then, ending.reason) == ("ended", f"stopped by {requested or 'a signal'} at step 5 of 9")


@pytest.mark.parametrize("requested", ["SIGTERM", None])
def test_a_preemption_that_sends_sigterm_only(record: Record, scontrol: Path, requested: str | None) -> None:
    scontrol.write_text("JobId=12 PreemptEligibleTime=2026-11-21T10:00:00 PreemptTime=2026-11-21T10:00:05 Foo=1\n")
    outcome(record, 0, requested)
    assert judge(record, JOB, 0, 0).then == "requeued"


def test_a_killed_process(record: Record) -> None:
    log(record, KILLED)
    report(record, 0, "lost", "connection closed")
    ending = judge(record, JOB, 0, 137)
    assert (ending.outcome, ending.then, ending.step) == ("failed", "requeued", 7)
    assert ending.reason == "process 3 on node1: ended by: Killed"
    assert "process 3 on node1: ended by: Killed" in Path(record.folder).parents[1].joinpath("failure.txt").read_text()


def test_a_process_that_could_not_even_start_is_quoted(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nsrun: error: node1: task 1: Exited with exit code 1\n")
    log(record, "Traceback ...\nModuleNotFoundError: No module named 'torch'\n\n", rank=1)
    reason = judge(record, JOB, 0, 1).reason
    said = "exited with exit code 1; its last words: ModuleNotFoundError: No module named 'torch'"
    assert reason == f"process 1 on node1: {said}"


def test_srun_itself_fails(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\nsrun: error: Unable to create step: Invalid account\n")
    assert judge(record, JOB, 0, 1).reason == "Unable to create step: Invalid account"


def test_failures_that_get_no_further_are_too_many(record: Record) -> None:
    ended(record, ("failed", 7))
    report(record, 1, "error", "ValueError: x", restart=1)
    ending = judge(record, JOB, 1, 70)
    said = "process 1 on node1: ValueError: x; cluster.restart_on_failure: 1 restarts are made without getting further"
    assert (ending.then, ending.reason) == ("ended", said)


def test_failures_of_a_run_that_goes_on_are_not_added_up(record: Record) -> None:
    ended(record, ("failed", 4), ("failed", 6))
    report(record, 1, "error", "ValueError: x", restart=2)
    assert judge(record, JOB, 2, 70).then == "requeued"


def test_progress_counts_also_where_the_processes_could_not_tell_of_it(record: Record) -> None:
    ended(record, ("failed", 4))
    log(record, KILLED)
    assert judge(record, JOB, 1, 137).then == "ended"
    Path(record.folder).parents[1].joinpath("metrics.jsonl").write_text('{"step": 6, "loss": 1.0}\n')
    ending = judge(record, JOB, 1, 137)
    assert (ending.then, ending.step) == ("requeued", 6)


def test_a_mistake_of_the_users_is_not_tried_again(record: Record) -> None:
    report(record, 0, "refused", "data.root: /gone does not exist")
    ending = judge(record, JOB, 0, 1)
    assert (ending.then, ending.reason) == ("ended", "process 0 on node1: data.root: /gone does not exist")


def test_nodes_that_do_not_see_the_run_folder(record: Record) -> None:
    log(record, "dinotrain: start 0 on x, y\ndinotrain: node7 does not see /a b\ndinotrain: node2 does not see /a b\n")
    reason = judge(record, JOB, 0, 1).reason
    assert reason == "node2, node7: no such folder there: /a b; the run folder has to be on a path that all nodes share"


@pytest.mark.parametrize(("requested", "status", "step"), [(None, 0, 9), ("SIGTERM", 75, 5), (None, 75, 5)])
def test_the_jobs_exit_status(
    record: Record, inside: None, capsys, requested: str | None, status: int, step: int
) -> None:
    outcome(record, 0, requested, step)
    assert close(record) == status
    (line,) = lines_of(record)
    assert line["then"] == "ended"
    assert capsys.readouterr().out.startswith("dinotrain: ")


def test_a_requeue_is_asked_for(record: Record, inside: None, tmp_path: Path) -> None:
    outcome(record, 0, "SIGUSR2")
    close(record)
    assert (tmp_path / "asked").read_text() == f"requeue {JOB}\n"
    assert [line["then"] for line in lines_of(record)] == ["requeued"]


def test_slurm_may_be_starting_again(record: Record, inside: None, tmp_path: Path) -> None:
    (tmp_path / "refusals").write_text(2 * RESTARTING)
    outcome(record, 0, "SIGUSR2")
    close(record)
    assert (tmp_path / "asked").read_text() == 3 * f"requeue {JOB}\n"
    assert [line["then"] for line in lines_of(record)] == ["requeued"]


def test_a_preemption_may_have_queued_it_already(tmp_path: Path) -> None:
    (tmp_path / "refusals").write_text(2 * f"Job is pending execution for job {JOB}\n")
    assert requeue(JOB) == ""
    assert (tmp_path / "asked").read_text() == f"requeue {JOB}\n"


def test_a_requeue_that_is_refused_for_good_is_written_down(
    record: Record, inside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinotrain.cluster.closing.PATIENCE_SECONDS", 0.1)
    (tmp_path / "refusals").write_text(1000 * RESTARTING)
    outcome(record, 0, "SIGUSR2")
    assert close(record) == 75
    first, last = lines_of(record)
    assert (first["then"], last["then"], last["outcome"]) == ("requeued", "ended", "stopped")
    assert re.search(r"it could not be queued again \(.*Unable to contact slurm controller", last["reason"])


def test_a_question_is_asked_again(scontrol: Path, tmp_path: Path) -> None:
    scontrol.write_text("JobId=12 PreemptTime=2026-11-21T10:00:05 Foo=1\n")
    (tmp_path / "refusals").write_text(2 * RESTARTING)
    assert preempted(JOB)
    (tmp_path / "refusals").write_text(3 * RESTARTING)
    assert not preempted(JOB)


def test_a_full_disk_does_not_keep_it_from_going_on(record: Record, inside: None, tmp_path: Path, capsys) -> None:
    # A folder of that name can't be written to either.
    Path(record.folder, "ended.jsonl").mkdir()
    Path(record.folder).parents[1].joinpath("failure.txt").mkdir()
    log(record, KILLED)
    close(record, 137)
    assert (tmp_path / "asked").read_text().endswith(f"requeue {JOB}\n")
    told, lost, ending = capsys.readouterr().out.splitlines()
    assert told.startswith("dinotrain: failure.txt could not be written to ")
    assert lost.startswith("dinotrain: ended.jsonl could not be written to ")
    assert ending == "dinotrain: failed: process 3 on node1: ended by: Killed; requeued"


def test_restarts_that_cannot_be_counted_end_at_last(
    record: Record, inside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    Path(record.folder, "ended.jsonl").mkdir()
    log(record, KILLED)
    assert close(record, 137) == 1
    assert "requeue" not in (tmp_path / "asked").read_text()


def test_an_element_of_an_array(record: Record, inside: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The number of the last element is that of the whole array.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    record = replace(record, job="12_1")
    record.write()
    Path(record.logs, "records.json").write_text(json.dumps(["/nowhere", str(record.path)]))
    outcome(record, 0, "SIGUSR2")
    close(record)
    assert (tmp_path / "asked").read_text() == "requeue 12_1\n"


def test_a_job_whose_submitter_was_killed(record: Record, inside: None, tmp_path: Path) -> None:
    replace(record, job=None).write()
    run_dir = Path(record.folder).parents[1]
    assert latest(run_dir) is None
    log(record, KILLED)
    close(record, 137)
    found = latest(run_dir)
    assert found is not None
    assert found.job == JOB
    assert "process 3 on node1: ended by: Killed" in lines_of(record)[0]["reason"]


def test_a_preemption_that_left_no_time_to_save_is_no_failure(record: Record, scontrol: Path) -> None:
    scontrol.write_text("JobId=12 PreemptTime=2026-11-21T10:00:05 Foo=1\n")
    log(record, KILLED)
    ending = judge(record, JOB, 0, 137)
    assert (ending.outcome, ending.reason, ending.then) == ("stopped", "preempted before it could save", "requeued")


def test_a_line_of_setup_that_failed(record: Record) -> None:
    log(record, 'dinotrain: start 0 on x, y\ndinotrain: cluster.setup: "module load" ended with status 127\n')
    assert judge(record, JOB, 0, 127).reason == 'cluster.setup: "module load" ended with status 127'
