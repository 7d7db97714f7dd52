"""What the scheduler knows of a job, and the few things it is asked to do with one.

SLURM is asked through its commands; a job of the cluster "local" is a process of this machine, submitit's controller.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from dataclasses import dataclass

from dinotrain.cluster import controller
from dinotrain.cluster.record import Record
from dinotrain.errors import UserError

TIMEOUT = 60.0
"""Seconds that a command of the scheduler may take: a busy one answers late."""

ALIVE = frozenset(
    ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "REQUEUED", "RESIZING", "STOPPED", "SIGNALING")
    + ("STAGE_OUT", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
)
"""States from which a job may still do something."""

SQUEUE_FIELDS = ("State", "Reason", "NodeList", "RestartCnt", "TimeUsed", "TimeLimit")
SACCT_FIELDS = ("JobID", "State", "Reason", "NodeList", "ElapsedRaw", "TimelimitRaw")
UNKNOWN_JOB = "Invalid job id specified"


@dataclass(frozen=True)
class JobState:
    """A job as its scheduler sees it.

    Args:
        state: SLURM's word in capitals; "" if the scheduler knows nothing of the job.
        reason: why it waits or has ended, in the scheduler's word.
        nodes: as the scheduler writes a list of them, such as `node[0-3]`.
        restarts: how often it was requeued; None if that is not known.
        elapsed_s: seconds since it was started (last).
        limit_s: seconds that it may take; None without limit.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int | None = None
    elapsed_s: int | None = None
    limit_s: int | None = None

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


@dataclass(frozen=True)
class Partition:
    """Nodes of one kind in a partition.

    Args:
        name: of the partition.
        default: whether jobs go there that name none.
        nodes: how many of this kind.
        cpus: of each.
        memory_mb: of each.
        gpus: of each.
        limit_s: seconds that a job may take; None without limit.
    """

    name: str
    default: bool
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    limit_s: int | None


def job_state(record: Record) -> JobState:
    """What is known of a submitted job.

    Raises:
        UserError: if the scheduler can't be asked.
    """
    if record.job is None:
        return JobState("")
    if record.cluster == "local":
        return _here(record)
    return _queued(record.job) or _accounted(record.job) or JobState("")


def signal_job(record: Record, signal_name: str) -> None:
    """Send a signal such as "SIGTERM" to every task of a running job.

    Raises:
        UserError: if it could not be sent.
    """
    if record.cluster == "local":
        controller.send(controller.passing_on(_pid(record), record.logs) if _is_here(record) else [], signal_name)
    else:
        job = _id(record)
        steps = _asked("squeue", "-h", "-s", "-j", job, "-o", "%i").split()
        # Not by the job: of an array whose other elements wait, SLURM would try those, too, for minutes.
        tasks = [step for step in steps if step.rpartition(".")[2].isdigit()]
        if not tasks:
            raise UserError(f"job {job} has no processes at the moment; try again soon, or end it with cancel --now")
        _asked("scancel", f"--signal={signal_name.removeprefix('SIG')}", *tasks)


def cancel_job(record: Record) -> None:
    """End a job at once, or take it out of the queue.

    Raises:
        UserError: if that was refused.
    """
    if record.cluster == "local":
        controller.send(controller.tree(_pid(record)) if _is_here(record) else [], "SIGKILL")
    else:
        _asked("scancel", _id(record))


def requeue_job(job_id: str) -> None:
    """Have a running job end and start again.

    Raises:
        UserError: if that was refused.
    """
    _asked("scontrol", "requeue", job_id)


def partitions() -> list[Partition]:
    """Every kind of node of every partition, hidden ones included.

    Raises:
        UserError: if the scheduler can't be asked.
    """
    return [
        _partition(line) for line in _asked("sinfo", "-a", "-h", "-e", "-o", "%P|%D|%c|%m|%G|%l").splitlines() if line
    ]


def _queued(job: str) -> JobState | None:
    """What squeue says: of a job that waits, runs, or has ended a short while ago."""
    fields = ",".join(f"{field}:1000" for field in SQUEUE_FIELDS)
    done = _run("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", fields)
    if done.returncode and UNKNOWN_JOB in done.stderr:
        return None
    lines = _checked(done).splitlines()
    if not lines:
        return None
    state, reason, nodes, restarts, elapsed, limit = (
        lines[-1][start : start + 1000].strip() for start in range(0, 1000 * len(SQUEUE_FIELDS), 1000)
    )
    return JobState(state, _word(reason), nodes, _count(restarts), seconds(elapsed), seconds(limit))


def _accounted(job: str) -> JobState | None:
    """What the accounting says, where there is one: of jobs of any age."""
    if shutil.which("sacct") is None:
        return None
    done = _run("sacct", "-X", "--parsable2", "-o", ",".join(SACCT_FIELDS), "-j", job)
    head, *lines = done.stdout.splitlines() or [""]
    if done.returncode or not lines:
        return None
    # By their names: a stand-in for sacct may have fewer columns.
    row = dict(zip(head.split("|"), lines[-1].split("|")))
    limit = _count(row.get("TimelimitRaw", ""))
    return JobState(
        row.get("State", "").split(" ")[0],  # "CANCELLED by 0"
        _word(row.get("Reason", "")),
        row.get("NodeList", ""),
        elapsed_s=_count(row.get("ElapsedRaw", "")),
        limit_s=None if limit is None else limit * 60,
    )


def _partition(line: str) -> Partition:
    name, nodes, cpus, memory, gres, limit = line.split("|")
    gpus = sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))
    return Partition(
        name.removesuffix("*"),
        name.endswith("*"),
        int(nodes),
        int(cpus.rstrip("+")),
        int(memory.rstrip("+")),
        gpus,
        seconds(limit),
    )


def seconds(text: str) -> int | None:
    """SLURM's `[days-][[hours:]minutes:]seconds`; None for what is no time (UNLIMITED, infinite, INVALID)."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(?:(\d+):)?(\d+)", text)
    if not found:
        return None
    days, *rest = found.groups()
    total = 0
    for part in (part for part in rest if part is not None):
        total = total * 60 + int(part)
    return int(days or 0) * 86400 + total


def _word(reason: str) -> str:
    return "" if reason in ("None", "(null)") else reason


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _here(record: Record) -> JobState:
    """What is known of a job of this machine."""
    if record.host != socket.gethostname():
        return JobState("", reason=f"it was started on {record.host}; ask there")
    return JobState("RUNNING" if _is_here(record) else "", nodes=record.host)


def _is_here(record: Record) -> bool:
    return record.host == socket.gethostname() and controller.runs(_pid(record), record.logs)


def _pid(record: Record) -> int:
    return int(_id(record))


def _id(record: Record) -> str:
    if record.job is None:
        raise UserError(f"{record.path}: this job was never submitted")
    return record.job


def _asked(*words: str) -> str:
    return _checked(_run(*words))


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if line.strip()), f"exit status {done.returncode}")
        line = line.strip().removeprefix(f"{done.args[0]}: ").removeprefix("error: ")
        away = "SLURM does not answer: " if re.search("[Uu]nable to contact|resolve_ctls", line) else ""
        raise UserError(f"{away}{done.args[0]}: {line}")
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError as error:
        raise UserError(f"{words[0]}: no such command on the PATH; is this a machine of a SLURM cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]}: no answer from the scheduler in {TIMEOUT:g} s; try again") from error
