"""What is said of runs and their jobs, and ending them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from answering_slurm import AnsweringSlurm, make_record

from dinotrain.cluster.progress import read_progress
from dinotrain.cluster.reasons import reason_in_words
from dinotrain.cluster.status import find_runs, status_of
from dinotrain.commands import jobs
from dinotrain.errors import UserError


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnsweringSlurm:
    fake = AnsweringSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    return fake


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was submitted and has come to step 20 of 100, half a second each."""
    run_dir = tmp_path / "runs" / "one"
    make_record(run_dir)
    write_rows(run_dir, *steps(20))
    return run_dir


def steps(last: int, first: int = 1) -> list[dict[str, Any]]:
    return [{"step": step, "time": step / 2, "loss": 7 - step / 10} for step in range(first, last + 1)]


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("optim: {steps: 100}\n")
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def ended(run_dir: Path, number: int = 1, **row: Any) -> None:
    values = {"restart": 0, "time": "2026-01-01T00:00:00", "outcome": "stopped", "step": 20, "then": "ended"} | row
    with (run_dir / "jobs" / f"{number:04d}" / "ended.jsonl").open("a") as file:
        file.write(json.dumps(values) + "\n")


def log(run_dir: Path) -> Path:
    return run_dir / "jobs" / "0001" / "logs" / "12_0_log.out"


def said(run_dir: Path) -> tuple[str, str]:
    status = status_of(run_dir)
    return status.state, status.why


# --- state and why ---


def test_a_running_run_has_its_numbers(slurm: AnsweringSlurm, run: Path) -> None:
    slurm.queue("RUNNING", nodes="node[0-1]", elapsed="1:00")
    status = status_of(run)
    assert (status.state, status.why, status.job, status.nodes, status.restarts) == (
        "running",
        "",
        "12",
        "node[0-1]",
        0,
    )
    assert (status.progress.step, status.progress.steps, status.progress.loss) == (20, 100, 5.0)
    assert status.progress.remaining_seconds == 40


def test_a_run_that_logs_nothing_for_long_may_hang(slurm: AnsweringSlurm, run: Path) -> None:
    half_an_hour_ago = time.time() - 1800
    os.utime(run / "metrics.jsonl", (half_an_hour_ago, half_an_hour_ago))
    slurm.queue("RUNNING", elapsed="2:00:00")
    assert said(run) == ("running", "has logged nothing for 30 min")


def test_until_its_first_row_a_job_that_runs_is_starting(slurm: AnsweringSlurm, run: Path) -> None:
    os.utime(run / "metrics.jsonl", (1e9, 1e9))
    slurm.queue("RUNNING", elapsed="10:00", restarts=1)
    assert said(run)[0] == "starting"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("None", "submitted just now"),
        ("Resources", "waits for free nodes"),
        ("Priority", "other jobs come first"),
        ("JobHeldUser", "held; scontrol release lets it go"),
        ("QOSMaxGRESPerUser", "a limit of the account or quality of service (QOSMaxGRESPerUser)"),
        ("Reservation", "Reservation"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "the nodes it needs are down or reserved",
        ),
    ],
)
def test_a_pending_run_says_what_it_waits_for(slurm: AnsweringSlurm, run: Path, reason: str, words: str) -> None:
    slurm.queue("PENDING", reason=reason)
    assert said(run) == ("pending", words)
    assert reason_in_words(reason.replace("None", "")) == words


def test_after_a_requeue_it_says_what_stopped_it(slurm: AnsweringSlurm, run: Path) -> None:
    ended(run, then="requeued", reason="stopped by SIGUSR2 at step 20 of 100")
    slurm.queue("PENDING", reason="BeginTime", restarts=1)
    assert said(run) == ("pending", "starts again in a moment; stopped by SIGUSR2 at step 20 of 100")
    slurm.queue("RUNNING", restarts=1, elapsed="0:01")
    assert said(run) == ("running", "last stop: stopped by SIGUSR2 at step 20 of 100")
    slurm.queue("RUNNING", restarts=2, elapsed="0:01")
    assert said(run) == ("running", "last stop: a node failed, or it was requeued by hand")
    assert status_of(run).restarts == 2


@pytest.mark.parametrize(
    ("outcome", "state", "why"),
    [
        ("done", "finished", ""),
        ("stopped", "stopped", "stopped by SIGTERM at step 20 of 100"),
        ("failed", "failed", "stopped by SIGTERM at step 20 of 100"),
    ],
)
def test_an_ended_job_is_what_its_last_line_says(
    slurm: AnsweringSlurm, run: Path, outcome: str, state: str, why: str
) -> None:
    ended(run, outcome=outcome, reason="stopped by SIGTERM at step 20 of 100")
    slurm.queue("FAILED" if outcome == "failed" else "COMPLETED")
    assert said(run) == (state, why)
    slurm.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert said(run) == (state, why)


@pytest.mark.parametrize(
    ("known", "state", "why"),
    [
        ("NODE_FAIL", "failed", "a node failed"),
        ("TIMEOUT", "stopped", "the time limit was reached"),
        ("CANCELLED", "stopped", "cancelled"),
        ("OUT_OF_MEMORY", "failed", "a node ran out of memory"),
        ("STRANGE", "failed", "SLURM says STRANGE"),
    ],
)
def test_a_job_that_was_cut_off_is_what_slurm_says(
    slurm: AnsweringSlurm, run: Path, known: str, state: str, why: str
) -> None:
    ended(run, then="requeued", reason="stopped by SIGUSR2")
    slurm.queue(known, restarts=1)
    assert said(run) == (state, why)


def test_a_job_that_ended_before_any_output_leads_to_the_path(slurm: AnsweringSlurm, run: Path) -> None:
    slurm.queue("FAILED", reason="JobLaunchFailure", nodes="node0")
    assert said(run) == (
        "failed",
        f"it ended before any output: is {run / 'jobs' / '0001'} on a path that all nodes share?",
    )
    log(run).write_text("bash: line 3: module: command not found\n")
    assert said(run) == ("failed", f"its script failed; see {log(run)}")


def test_a_job_that_nobody_remembers_leads_to_its_log(slurm: AnsweringSlurm, run: Path) -> None:
    assert said(run) == ("failed", f"the job has gone, and SLURM does not remember it; see {log(run)}")
    write_rows(run, *steps(100, first=21))
    (run / "results.json").write_text('{"finished": true, "steps": 100}')
    assert said(run) == ("finished", "")


def test_the_latest_job_counts(slurm: AnsweringSlurm, run: Path) -> None:
    ended(run, outcome="failed", reason="process 1 on node1: out of memory")
    make_record(run, job="15", number=2)
    slurm.queue("PENDING", reason="Priority")
    assert (status_of(run).job, *said(run)) == ("15", "pending", "other jobs come first")


def test_resumes_by_hand_are_restarts_too(slurm: AnsweringSlurm, run: Path) -> None:
    write_rows(run, {"event": "resume", "step": 20, "time": 10.0}, *steps(21, first=21))
    slurm.queue("RUNNING", elapsed="0:09")
    assert status_of(run).restarts == 1


def test_what_can_not_be_asked_is_said(slurm: AnsweringSlurm, run: Path) -> None:
    slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    state, why = said(run)
    assert (state, why.partition(":")[0]) == ("unknown", "SLURM does not answer")
    assert status_of(run).progress.step == 20
    ended(run, reason="stopped by SIGTERM at step 20 of 100")
    assert said(run) == ("stopped", "stopped by SIGTERM at step 20 of 100")
    (run / "jobs" / "0001.json").write_text("{")
    state, why = said(run)
    assert (state, why.partition(":")[0]) == ("unknown", str(run / "jobs" / "0001.json"))


def test_a_run_that_was_started_by_hand_has_no_job(slurm: AnsweringSlurm, tmp_path: Path) -> None:
    run = tmp_path / "by_hand"
    write_rows(run, *steps(20))
    assert said(run) == ("no job", "not submitted as a job, so it is not known whether it runs")
    write_rows(run, {"event": "interrupted", "step": 20, "time": 10.0, "reason": "SIGINT"})
    assert said(run) == ("stopped", "stopped by SIGINT")


# --- jobs of this machine ---


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A run of a job of this machine that has ended."""
    run_dir = tmp_path / "here"
    record = make_record(run_dir, job="999999999", cluster="local")
    os.utime(record.path, (1e9, 1e9))
    write_rows(run_dir, *steps(20))
    return run_dir


def test_a_local_job_that_stopped_says_by_what(local: Path) -> None:
    outcome = {"outcome": "stopped", "step": 20, "steps": 100, "requested": "SIGTERM"}
    (local / "jobs" / "0001" / "outcome.0.json").write_text(json.dumps(outcome))
    assert said(local) == ("stopped", "stopped by SIGTERM at step 20")
    assert status_of(local).job == "999999999"


def test_a_local_job_that_failed_says_what_failed(local: Path) -> None:
    (local / "failure.txt").write_text(
        "2026-01-01 00:00:00, start 29512.0: process 1 on vm: ValueError: bad: x\n\nmore"
    )
    assert said(local) == ("failed", "process 1 on vm: ValueError: bad: x")
    os.utime(local / "failure.txt", (9e8, 9e8))
    assert said(local)[1].startswith("it was killed, or ended without a word; see ")


def test_a_local_job_of_another_machine_is_unknown(local: Path) -> None:
    make_record(local, job="5", cluster="local", host="elsewhere", number=2)
    assert said(local) == ("unknown", "it was started on elsewhere; ask there")


# --- numbers ---


def test_of_several_students_the_one_behind_counts(tmp_path: Path) -> None:
    write_rows(tmp_path / "run" / "large", *steps(30))
    write_rows(tmp_path / "run" / "small", *steps(40))
    assert read_progress(tmp_path / "run").step == 30


def test_the_speed_is_that_since_training_last_went_on(run: Path) -> None:
    resumed = [{"step": step, "time": 10 + 2.0 * (step - 20), "loss": 5.0} for step in range(21, 25)]
    write_rows(run, {"event": "resume", "step": 20, "time": 10.0}, *resumed)
    assert read_progress(run).seconds_per_step == 2.0


def test_rows_in_the_making_and_broken_ones_are_passed_over(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n[1]\n{"step": 21, "loss": null}\n{"step": 99, "lo')
    progress = read_progress(run)
    assert (progress.step, progress.loss) == (21, None)


def test_only_the_end_of_a_long_file_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinotrain.cluster.progress.TAIL_BYTES", 300)
    assert read_progress(run).step == 20
    assert read_progress(run).remaining_seconds == 40


def test_the_submission_says_how_many_steps(run: Path) -> None:
    folder = run / "jobs" / "0001"
    (folder / "config.yaml").write_text("optim: {steps: 400}\n")
    assert read_progress(run, folder).steps == 400
    assert read_progress(run).steps == 100


def test_a_run_without_anything_is_at_step_0(tmp_path: Path) -> None:
    progress = read_progress(tmp_path)
    assert (progress.step, progress.steps, progress.loss, progress.remaining_seconds) == (0, None, None, None)


# --- which runs ---


def test_runs_are_found_in_folders_and_by_patterns(run: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "runs" / "two", *steps(1))
    (tmp_path / "runs" / "notes").mkdir()
    write_rows(tmp_path / "runs" / "sweep" / "seed=1", *steps(1))
    seed = tmp_path / "runs" / "sweep" / "seed=1"
    both = [run, run.with_name("two")]
    assert find_runs(str(run)) == [run]
    assert find_runs(str(tmp_path / "runs")) == [run, seed, run.with_name("two")]
    assert find_runs(str(tmp_path / "runs" / "sweep")) == [seed]
    assert find_runs(str(tmp_path / "runs" / "*o*")) == both


@pytest.mark.parametrize(("word", "line"), [("none", "none: no such run folder"), ("bin", "bin: not a run folder, ")])
def test_what_is_not_a_run_is_said(
    slurm: AnsweringSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{line}"):
        find_runs(word)


# --- the commands ---


def test_status_shows_a_line_for_each_run_and_an_error_for_the_rest(
    slurm: AnsweringSlurm, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    write_rows(run.with_name("two"), *steps(3))
    slurm.queue("RUNNING", nodes="node[0-1]", elapsed="1:00")
    assert jobs.status(["one", "none", "two", str(run)]) == 1
    out, err = capsys.readouterr()
    assert err == "error: none: no such run folder\n"
    assert out.splitlines() == [
        "run  job  state      step       left    loss  restarts  nodes      why",
        "one  12   running  20/100  20%  40 s  5.0000         0  node[0-1]",
        "two       no job    3/100   3%        6.7000         0             "
        "not submitted as a job, so it is not known whether it runs",
    ]
    assert jobs.status(["one"]) == 0


def test_on_a_terminal_status_draws_a_table(
    slurm: AnsweringSlurm, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    slurm.queue("PENDING", reason="Priority")
    assert jobs.status(["."]) == 0
    out = capsys.readouterr().out
    assert "pending" in out
    assert "─" in out
    assert out.splitlines()[-1] == "one: other jobs come first"


def test_cancelling_in_order_asks_a_running_job_and_takes_out_a_waiting_one(
    slurm: AnsweringSlurm, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.queue("RUNNING")
    assert jobs.cancel([str(run)], now=False) == 0
    assert slurm.calls == ["scancel --signal=TERM 12.0 12.1"]
    slurm.queue("PENDING", reason="BeginTime")
    assert jobs.cancel([str(run)], now=False) == 0
    assert slurm.calls[1:] == ["scancel 12"]
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("job 12 is asked to finish its step, save and end; resume=RUN goes on from there")
    assert out[1].endswith("job 12 was waiting, and is cancelled")


def test_cancelling_now_does_not_ask(slurm: AnsweringSlurm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.queue("RUNNING")
    assert jobs.cancel([str(run)], now=True) == 0
    assert slurm.calls == ["scancel 12"]
    assert "what came after its last checkpoint is lost" in capsys.readouterr().out


def test_cancelling_what_does_not_run_is_said_and_no_error(
    slurm: AnsweringSlurm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.queue("COMPLETED")
    write_rows(tmp_path / "by_hand", *steps(1))
    assert jobs.cancel([str(run), str(tmp_path / "by_hand")], now=False) == 0
    assert not slurm.calls
    slurm.queue("COMPLETING")
    slurm.fail("scancel", "scancel: error: Kill job error on job id 12: Job/step already completing or completed")
    assert jobs.cancel([str(run)], now=False) == 0
    lines = capsys.readouterr().out.splitlines()
    endings = ("job 12 has ended before", "was never submitted as a job", "is ending already, and will not start again")
    assert [line.endswith(words) for line, words in zip(lines, endings, strict=True)] == [True] * 3


def test_a_job_that_is_being_requeued_does_not_start_again(slurm: AnsweringSlurm, run: Path) -> None:
    slurm.queue("COMPLETING", restarts=1)
    assert jobs.cancel([str(run)], now=False) == 0
    assert slurm.calls == ["scancel 12"]


def test_a_refused_cancellation_does_not_keep_others_from_theirs(
    slurm: AnsweringSlurm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record(tmp_path / "runs" / "two", job="13")
    slurm.queue("PENDING")
    slurm.command("scancel", '[[ $1 == 13 ]] || { echo "scancel: error: Access/permission denied" >&2; exit 1; }')
    assert jobs.cancel([str(run), "none", str(tmp_path / "runs" / "two")], now=False) == 1
    out, err = capsys.readouterr()
    assert out.endswith("job 13 was waiting, and is cancelled\n")
    assert err.splitlines() == [
        "error: none: no such run folder",
        "error: scancel: Access/permission denied",
    ]
