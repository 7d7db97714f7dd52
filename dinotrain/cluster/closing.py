"""The last line of a job's script: what became of the tasks, and whether the job is to run again.

    python -m dinotrain.cluster.closing LOGS/records.json STATUS

It runs on the job's first node, after srun: outside of the processes that may have failed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinotrain.cluster.endings import Ending, add_ending, endings, failures_in_a_row, orderly_restarts
from dinotrain.cluster.progress import read_progress
from dinotrain.cluster.record import Record, now, own_job
from dinotrain.cluster.scheduler import requeue_job
from dinotrain.cluster.start_logs import StartLogs
from dinotrain.distributed.failure import Failure, Reports, compose
from dinotrain.errors import Status, UserError

REQUEUE_SECONDS = 60
"""Until SLURM ends this script because of the requeue."""
PATIENCE_SECONDS = 300
PAUSE_SECONDS = 10
"""How long, and how often, a requeue is asked for that SLURM refuses: slurmctld may be starting again."""
REQUEUED_ALREADY = "pending"
""" "Job is pending execution": a preemption that is under way, or submitit, was faster."""
QUESTION_PAUSES = (0, 5, 10)
QUESTION_SECONDS = 30


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the job, unless it is requeued, which ends this process."""
    records, status = Path(arguments[0]), int(arguments[1])
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
    restart, job = int(os.environ.get("SLURM_RESTART_COUNT") or 0), os.environ["SLURM_JOB_ID"]
    record = Record.read(Path(json.loads(records.read_text())[index])).known_as(own_job(os.environ))
    ending = judge(record, job, restart, status)
    if not _write_down(record, ending) and restart >= record.requeues + record.restart_on_failure:
        # Restarts that can't be counted must not go on for ever.
        ending = replace(ending, then="ended")
    _say(ending)
    if ending.then == "requeued":
        refusal = requeue(record.job or job)
        if not refusal:
            time.sleep(REQUEUE_SECONDS)
        else:
            reason = f"{ending.reason}; it could not be queued again ({refusal}): submit it with resume=RUN to go on"
            ending = replace(ending, then="ended", reason=reason)
            _write_down(record, ending)
            _say(ending)
    return Status[ending.outcome.upper()]


def judge(record: Record, job: str, restart: int, status: int) -> Ending:
    """What became of a start of a job, and what is to be done.

    Args:
        job: SLURM's number in the environment; of the last element of an array that is also the number of the whole.
        restart: how often the job was started before.
        status: exit status of srun.
    """
    said, logs = _outcome(record.outcome(restart)), StartLogs(record)
    if said.get("outcome") == "done":
        amount = f"{said['steps']} {said.get('unit', 'steps')}"
        return Ending(restart, now(), "done", f"done: all {amount}", said["step"], "ended")
    if said or logs.signalled:
        return _stopped(record, job, restart, said)
    return _failed(record, job, restart, status, logs)


def _stopped(record: Record, job: str, restart: int, said: dict[str, Any]) -> Ending:
    # One that the first process does not know may be any: only SIGUSR2 is known to ask for a restart.
    signal = said.get("requested") if said else "SIGUSR2"
    step = said.get("step")
    when = f"at step {step} of {said['steps']}" if said else "while starting"
    reason = f"stopped by {signal or 'a signal'} {when}"
    if record.cancelled.exists() or (signal != "SIGUSR2" and not preempted(record.job or job)):
        return Ending(restart, now(), "stopped", reason, step, "ended")
    return _again_if_allowed(record, restart, reason, step)


def _again_if_allowed(record: Record, restart: int, reason: str, step: int | None) -> Ending:
    if orderly_restarts(endings(Path(record.folder))) >= record.requeues:
        reason += f"; cluster.requeues: {record.requeues} restarts are made, submit it with resume=RUN to go on"
        return Ending(restart, now(), "stopped", reason, step, "ended")
    return Ending(restart, now(), "stopped", reason, step, "requeued")


def _failed(record: Record, job: str, restart: int, status: int, logs: StartLogs) -> Ending:
    run_dir = Path(record.folder).parents[1]
    failure = _conclude(Reports(run_dir, f"{job}.{restart}"), status, logs)
    # Processes that were killed say nothing of their step.
    step = failure.step or read_progress(run_dir).step or None
    if record.cancelled.exists():
        return Ending(restart, now(), "stopped", "cancelled", step, "ended")
    if preempted(record.job or job):
        return _again_if_allowed(record, restart, "preempted before it could save", step)
    failures = failures_in_a_row(endings(Path(record.folder)), step)
    again = not failure.for_good and failures < record.restart_on_failure
    reason = failure.reason
    if not again and not failure.for_good and record.restart_on_failure:
        reason += f"; cluster.restart_on_failure: {record.restart_on_failure} restarts are made without getting further"
    return Ending(restart, now(), "failed", reason, step, "requeued" if again else "ended")


def _conclude(reports: Reports, status: int, logs: StartLogs) -> Failure:
    early = logs.setup_failure or logs.unseen_folder
    killed = {} if early else logs.killed()
    otherwise = early or logs.error or f"srun ended with exit status {status}"
    try:
        return reports.conclude(killed, otherwise)
    except OSError as error:
        print(f"dinotrain: failure.txt could not be written to {reports.run_dir} ({error.strerror})", flush=True)
        return compose(reports.read(), reports.hosts(), killed, otherwise)


def _outcome(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _write_down(record: Record, ending: Ending) -> bool:
    """Returns whether it could be."""
    try:
        add_ending(Path(record.folder), ending)
    except OSError as error:
        print(f"dinotrain: ended.jsonl could not be written to {record.folder} ({error.strerror})", flush=True)
        return False
    return True


def _say(ending: Ending) -> None:
    what = f"failed: {ending.reason}" if ending.outcome == "failed" else ending.reason
    print(f"dinotrain: {what}" + (f"; {ending.then}" if ending.then != "ended" else ""), flush=True)


def requeue(job: str) -> str:
    """Have the job end and start again; returns why SLURM has not done so after all attempts, "" if it has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            requeue_job(job)
            return ""
        except UserError as error:
            if REQUEUED_ALREADY in str(error).lower():
                return ""
            if time.monotonic() >= deadline:
                return str(error)
        time.sleep(PAUSE_SECONDS)


def preempted(job: str) -> bool:
    """Whether SLURM is about to give the job's nodes to another one; not if it does not answer."""
    for pause in QUESTION_PAUSES:
        time.sleep(pause)
        command = ["scontrol", "-o", "show", "job", job]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=QUESTION_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            found = re.search(r"PreemptTime=(\S+)", done.stdout)
            return bool(found) and found[1] != "None"
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
