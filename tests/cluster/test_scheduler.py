"""Asking the scheduler about jobs, and telling it what to do with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering_slurm import AnsweringSlurm, make_record

from dinotrain.cluster import scheduler
from dinotrain.cluster.record import Record
from dinotrain.cluster.scheduler import (
    JobState,
    Partition,
    cancel_job,
    job_state,
    partitions,
    requeue_job,
    signal_job,
)
from dinotrain.errors import UserError


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnsweringSlurm:
    fake = AnsweringSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    return fake


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return make_record(tmp_path / "run")


def test_a_queued_job_is_known_with_all_that_squeue_says(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("RUNNING", nodes="node[0-1]", restarts=2, elapsed="1-02:03:04", limit="3-00:00:00")
    assert job_state(record) == JobState("RUNNING", "", "node[0-1]", 2, 93784, 259200)
    assert job_state(record).alive


def test_a_waiting_job_has_a_reason_and_no_limit_if_it_is_unlimited(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("PENDING", reason="Resources")
    assert job_state(record) == JobState("PENDING", "Resources", "", 0, 0, None)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", ""])
def test_these_states_are_final(state: str) -> None:
    assert not JobState(state).alive


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING", "SUSPENDED", "REQUEUE_HOLD", "CONFIGURING"])
def test_from_these_states_a_job_may_go_on(state: str) -> None:
    assert JobState(state).alive


def test_a_job_that_squeue_has_forgotten_is_looked_up_in_the_accounting(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.accounting("12|CANCELLED by 0|None|node[0-1]|3661|90")
    assert job_state(record) == JobState("CANCELLED", "", "node[0-1]", None, 3661, 5400)


def test_the_accounting_may_have_fewer_columns(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.command("sacct", 'echo "JobID|State|NodeList"; echo "12|FAILED|node3"')
    assert job_state(record) == JobState("FAILED", nodes="node3")


def test_without_accounting_nothing_is_known_of_an_old_job(slurm: AnsweringSlurm, record: Record) -> None:
    assert job_state(record) == JobState("")
    slurm.accounting()
    assert job_state(record) == JobState("")


def test_there_may_be_no_command_for_the_accounting(
    slurm: AnsweringSlurm, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm.folder / "sacct").unlink()
    monkeypatch.setattr(scheduler.shutil, "which", lambda name: None)
    assert job_state(record) == JobState("")


def test_a_job_that_is_still_being_submitted_is_not_asked_for(slurm: AnsweringSlurm, tmp_path: Path) -> None:
    slurm.fail("squeue", "not to be asked")
    assert job_state(make_record(tmp_path / "other", job=None)) == JobState("")


def test_a_scheduler_that_does_not_answer_is_the_users_to_know(
    slurm: AnsweringSlurm, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(
        UserError, match=r"^SLURM does not answer: squeue: slurm_load_jobs error: Unable to contact slurm controller"
    ):
        job_state(record)
    slurm.command("squeue", "sleep 10")
    monkeypatch.setattr(scheduler, "TIMEOUT", 0.1)
    with pytest.raises(UserError, match=r"^squeue: no answer from the scheduler in 0.1 s"):
        job_state(record)


def test_without_slurm_a_line_says_so(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^squeue: no such command on the PATH; is this a machine of a SLURM"):
        job_state(record)
    with pytest.raises(UserError, match=r"^sinfo: no such command"):
        partitions()


def test_signals_cancelling_and_requeueing_go_to_the_job(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("RUNNING")
    signal_job(record, "SIGTERM")
    cancel_job(record)
    requeue_job("12_3")
    # Signals go to the tasks alone.
    assert slurm.calls == ["scancel --signal=TERM 12.0 12.1", "scancel 12", "scontrol requeue 12_3"]
    slurm.fail("scontrol", "Job has already finished for job 12_3")
    with pytest.raises(UserError, match=r"^scontrol: Job has already finished"):
        requeue_job("12_3")


def test_a_job_without_tasks_can_not_be_signalled(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("PENDING")
    with pytest.raises(UserError, match=r"^job 12 has no processes at the moment; try again soon, or end it with"):
        signal_job(record, "SIGTERM")
    assert not slurm.calls


def test_every_kind_of_node_of_a_partition_is_a_row(slurm: AnsweringSlurm) -> None:
    lines = (
        "gpu*|14|96|1000000|gpu:a100:8(S:0-1)|3-00:00:00",
        "gpu*|2|64|500000|gpu:v100:4,mps:400|3-00:00:00",
        "cpu|3|4+|4000+|(null)|infinite",
        "odd|1|8|1000|gpu:2|30:00",
    )
    slurm.command("sinfo", "\n".join(f"echo '{line}'" for line in lines))
    assert partitions() == [
        Partition("gpu", True, 14, 96, 1000000, 8, 259200),
        Partition("gpu", True, 2, 64, 500000, 4, 259200),
        Partition("cpu", False, 3, 4, 4000, 0, None),
        Partition("odd", False, 1, 8, 1000, 2, 1800),
    ]


def test_times_are_read_in_all_of_slurms_forms() -> None:
    texts = {"0:05": 5, "1:00": 60, "2:03:04": 7384, "1-00:00:00": 86400, "45": 45}
    assert {text: scheduler.seconds(text) for text in texts} == texts
    assert [scheduler.seconds(text) for text in ("UNLIMITED", "infinite", "INVALID", "")] == [None] * 4


# --- jobs of this machine ---

CONTROLLER = """
import signal, subprocess, sys, time
task = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
signal.signal(signal.SIGTERM, lambda *_: (task.terminate(), task.wait(), sys.exit(0)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def local(tmp_path: Path) -> Iterator[tuple[Record, subprocess.Popen[str]]]:
    """A process that looks like submitit's controller, with a task, and its record."""
    package = tmp_path / "submitit" / "local"
    package.mkdir(parents=True)
    (package / "_local.py").write_text(CONTROLLER)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    logs = tmp_path / "run" / "jobs" / "0001" / "logs"
    process = subprocess.Popen(
        [sys.executable, "-m", "submitit.local._local", str(logs)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield make_record(tmp_path / "run", job=str(process.pid), cluster="local"), process
    process.kill()
    process.wait()
    process.stdout.close()


Local = tuple[Record, "subprocess.Popen[str]"]


def test_a_local_job_lives_as_long_as_its_controller(local: Local) -> None:
    record, process = local
    assert job_state(record) == JobState("RUNNING", nodes=record.host)
    signal_job(record, "SIGTERM")
    assert process.wait(10) == 0
    assert not job_state(record).alive
    signal_job(record, "SIGTERM")


def test_cancelling_a_local_job_ends_its_tasks_too(local: Local) -> None:
    record, process = local
    tasks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(tasks) == 1
    cancel_job(record)
    assert process.wait(10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while _runs(tasks[0]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_only_has_the_number_is_left_alone(tmp_path: Path) -> None:
    record = make_record(tmp_path / "run", job=str(os.getpid()), cluster="local")
    assert not job_state(record).alive
    cancel_job(record)
    signal_job(record, "SIGKILL")


def test_a_local_job_of_another_machine_can_not_be_looked_at(tmp_path: Path) -> None:
    record = make_record(tmp_path / "run", job="1", cluster="local", host="elsewhere")
    assert job_state(record) == JobState("", reason="it was started on elsewhere; ask there")


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
