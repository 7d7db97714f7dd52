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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinotrain.cluster.record import Record, now
from dinotrain.cluster.scheduler import requeue_job
from dinotrain.distributed.failure import Killed, Reports
from dinotrain.errors import UserError

DONE, FAILED, STOPPED = 0, 1, 75
KILLED_BY_USR2 = 128 + 12
KILLED_BY_USR2_TEXT = ": User defined signal 2"
"""The signal came before the task could catch it: as srun's exit status, and as it says of one of several tasks."""
REQUEUE_SECONDS = 60
"""Until SLURM ends this script because of the requeue."""
START_MARK = "dinotrain: start"


@dataclass(frozen=True)
class Ending:
    """How a start of a job ended: a line of `ended.jsonl`."""

    restart: int
    time: str
    outcome: str
    """done, stopped or failed."""
    reason: str
    step: int | None
    then: str
    """ended or requeued."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the job, unless it is requeued, which ends this process."""
    records, status = Path(arguments[0]), int(arguments[1])
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
    record = Record.read(Path(json.loads(records.read_text())[index]))
    restart, job = int(os.environ.get("SLURM_RESTART_COUNT") or 0), os.environ["SLURM_JOB_ID"]
    ending = judge(record, job, restart, status)
    with (Path(record.folder) / "ended.jsonl").open("a") as file:
        file.write(json.dumps(asdict(ending)) + "\n")
    what = f"failed: {ending.reason}" if ending.outcome == "failed" else ending.reason
    print(f"dinotrain: {what}" + (f"; {ending.then}" if ending.then != "ended" else ""), flush=True)
    if ending.then == "requeued":
        try:
            requeue_job(record.job or job)
            time.sleep(REQUEUE_SECONDS)
        except UserError as error:
            # A preemption that is under way has requeued it already.
            print(f"dinotrain: {error}", flush=True)
    return {"done": DONE, "stopped": STOPPED}.get(ending.outcome, FAILED)


def judge(record: Record, job: str, restart: int, status: int) -> Ending:
    """What became of a start of a job, and what is to be done.

    Args:
        job: SLURM's number in the environment; of the last element of an array that is also the number of the whole.
        restart: how often the job was started before.
        status: exit status of srun.
    """
    earlier = [row["outcome"] for row in endings(Path(record.folder))]
    limit = record.requeues + earlier.count("failed")
    said = _outcome(record.outcome(restart))
    if said.get("outcome") == "done":
        return Ending(restart, now(), "done", f"done: all {said['steps']} steps", said["step"], "ended")
    if said or status == KILLED_BY_USR2 or KILLED_BY_USR2_TEXT in _latest_log(record):
        signal, step = said.get("requested") or "SIGUSR2", said.get("step")
        reason = f"stopped by {signal}" + (f" at step {step} of {said['steps']}" if said else " while starting")
        if record.cancelled.exists() or (signal != "SIGUSR2" and not preempted(record.job or job)):
            return Ending(restart, now(), "stopped", reason, step, "ended")
        if restart >= limit:
            reason += f"; cluster.requeues: {record.requeues} restarts are made, submit it with resume=RUN to go on"
            return Ending(restart, now(), "stopped", reason, step, "ended")
        return Ending(restart, now(), "stopped", reason, step, "requeued")
    return _failed(record, job, restart, status, earlier.count("failed"))


def _failed(record: Record, job: str, restart: int, status: int, failures: int) -> Ending:
    run_dir = Path(record.folder).parents[1]
    unseen = unseen_folder(record)
    killed = {} if unseen else killed_tasks(record)
    errors = re.findall(r"^(?:srun|slurmstepd\S*): error: (.+)$", _latest_log(record), re.MULTILINE)
    otherwise = unseen or (errors[0] if errors else f"srun ended with exit status {status}")
    failure = Reports(run_dir, f"{job}.{restart}").conclude(killed, otherwise)
    if record.cancelled.exists():
        return Ending(restart, now(), "stopped", "cancelled", failure.step, "ended")
    again = not failure.for_good and failures < record.restart_on_failure
    reason = failure.reason
    if not again and not failure.for_good and record.restart_on_failure:
        reason += f"; cluster.restart_on_failure: {record.restart_on_failure} restarts are made"
    return Ending(restart, now(), "failed", reason, failure.step, "requeued" if again else "ended")


def endings(folder: Path) -> list[dict[str, Any]]:
    """How each start of a job ended, oldest first; those that SLURM cut off are missing."""
    path = folder / "ended.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _outcome(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def preempted(job: str) -> bool:
    """Whether SLURM is about to give the job's nodes to another one."""
    try:
        done = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"PreemptTime=(\S+)", done.stdout)
    return bool(found) and found[1] != "None"


def unseen_folder(record: Record) -> str:
    """Which nodes do not see the run folder, in a sentence; empty if all do."""
    found = re.findall(r"^dinotrain: (\S+) does not see (.+)$", _latest_log(record), re.MULTILINE)
    if not found:
        return ""
    hosts = ", ".join(sorted({host for host, _ in found}))
    return f"{hosts}: no such folder there: {found[0][1]}; the run folder has to be on a path that all nodes share"


def _latest_log(record: Record) -> str:
    """What the job's script, srun and the first process printed since the last start."""
    return _log(record, 0).rpartition(START_MARK)[2]


def killed_tasks(record: Record) -> dict[int, Killed]:
    """How tasks ended, by rank, as srun tells it: those that ended first, before the others were stopped."""
    text = re.split(r"Terminating StepId", _latest_log(record))[0]
    found: dict[int, Killed] = {}
    for host, tasks, how in re.findall(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", text, re.MULTILINE):
        for rank in _numbers(tasks):
            words = f"ended by: {how}" if not how.startswith("Exited") else _last_words(record, rank, how)
            found[rank] = Killed(host, words)
    return found


def _last_words(record: Record, rank: int, how: str) -> str:
    lines = [line for line in _log(record, rank).splitlines() if line and not line.startswith(("srun:", "slurmstepd:"))]
    return f"{how[0].lower()}{how[1:]}; its last words: {lines[-1].strip()}" if lines else how


def _numbers(text: str) -> list[int]:
    parts = (part.partition("-") for part in text.split(","))
    return [number for first, _, last in parts for number in range(int(first), int(last or first) + 1)]


def _log(record: Record, rank: int) -> str:
    try:
        return Path(record.logs, f"{record.job}_{rank}_log.out").read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
