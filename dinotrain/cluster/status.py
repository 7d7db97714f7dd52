"""What has become of runs: their jobs, how far they are, why they stopped last."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.cluster.endings import endings
from dinotrain.cluster.following import log_path
from dinotrain.cluster.progress import Progress, has_training, read_progress
from dinotrain.cluster.reasons import CUT_OFF, STOPPED, reason_in_words
from dinotrain.cluster.record import Record, latest
from dinotrain.cluster.scheduler import JobState, job_state
from dinotrain.errors import UserError
from dinotrain.reporting.run_folder import object_of, text_of

AT_ONCE = 8
"""Runs that are looked at beside each other: the scheduler and shared folders answer slowly."""
LEVELS = 2
"""How deep runs are looked for: those of an array are in a folder of their own."""
STILL_SECONDS = 600
"""Without a row, after which a run may hang."""


@dataclass(frozen=True)
class RunStatus:
    """A run as it is now.

    Args:
        run_dir: its folder.
        job: id of its latest job; "" if it was never submitted.
        state: running, starting, pending, ending, finished, stopped, failed, unknown, no job, or SLURM's word.
        why: why it waits, or why it stopped last; "" if there is nothing to say.
        progress: in numbers.
        restarts: how often it was started again, by the scheduler or by hand.
        nodes: that its job has or had.
    """

    run_dir: Path
    job: str
    state: str
    why: str
    progress: Progress
    restarts: int
    nodes: str


def find_runs(word: str) -> list[Path]:
    """The runs that a folder, a folder of runs, or a pattern of them names.

    Raises:
        UserError: if there are none.
    """
    places = [Path(word)] if Path(word).exists() else [Path(place) for place in sorted(glob.glob(word))]
    if not places:
        raise UserError(f"{word}: no such run folder")
    found = [run for place in places for run in _runs_in(place, LEVELS)]
    if not found:
        raise UserError(f"{word}: not a run folder, and none in it (there is no job and no config.yaml)")
    return found


def one_run(word: str) -> Path:
    """The run that a folder is, not one that lies in it.

    Raises:
        UserError: if it is none.
    """
    found = find_runs(word)
    if len(found) != 1 or found[0].resolve() != Path(word).resolve():
        named = ", ".join(str(run) for run in found[:3]) + (" ..." if len(found) > 3 else "")
        raise UserError(f"{word}: is not a run but holds runs; expected their folders ({named})")
    return found[0]


def statuses(runs: Sequence[Path]) -> list[RunStatus]:
    """Look at several runs."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(status_of, runs))


def status_of(run_dir: Path) -> RunStatus:
    """Look at a run; whatever can't be read of it, or asked, is said in its `why`."""
    try:
        record = latest(run_dir)
    except UserError as error:
        return RunStatus(run_dir, "?", "unknown", str(error), read_progress(run_dir), 0, "")
    progress = read_progress(run_dir, Path(record.folder) if record else None)
    if record is None:
        return RunStatus(run_dir, "", *_unsubmitted(progress), progress, progress.resumes, "")
    try:
        known = job_state(record)
    except UserError as error:
        known, (state, why) = JobState(""), _final(record, progress) or ("unknown", str(error))
    else:
        state, why = _of_job(run_dir, record, known, progress)
    restarts = max(progress.resumes, known.restarts or 0)
    return RunStatus(run_dir, str(record.job), state, why, progress, restarts, known.nodes)


def _is_run(folder: Path) -> bool:
    return has_training(folder) or any((folder / "jobs").glob("*.json"))


def _runs_in(folder: Path, levels: int) -> list[Path]:
    """The folder if it is a run, else the runs in it."""
    if _is_run(folder):
        return [folder]
    inside = [path for path in sorted(folder.glob("*")) if path.is_dir()] if levels else []
    return [run for path in inside for run in _runs_in(path, levels - 1)]


def _unsubmitted(progress: Progress) -> tuple[str, str]:
    """State, and why, of a run that was started by hand."""
    if progress.finished:
        return "finished", ""
    if progress.interrupted:
        return "stopped", f"stopped by {progress.interrupted}"
    return "no job", "" if progress.written is None else "not submitted as a job, so it is not known whether it runs"


def _of_job(run_dir: Path, record: Record, known: JobState, progress: Progress) -> tuple[str, str]:
    before = endings(Path(record.folder))
    if known.alive:
        return _alive(record, known, before, progress)
    if record.cluster == "local":
        return _ended_here(run_dir, record, known, progress)
    return _final(record, progress) or _cut_off(record, known, before)


def _final(record: Record, progress: Progress) -> tuple[str, str] | None:
    """State of a job that has said how it ended."""
    last = next(reversed(endings(Path(record.folder))), {})
    if last.get("then") == "ended" and last.get("outcome") != "done":
        return str(last.get("outcome")), str(last.get("reason"))
    return ("finished", "") if last.get("then") == "ended" or progress.finished else None


def _alive(record: Record, known: JobState, before: list[dict[str, Any]], progress: Progress) -> tuple[str, str]:
    """State of a job that waits or runs; of one that was started before also what stopped it."""
    if known.state == "PENDING":
        why = reason_in_words(known.reason)
        return "pending", f"{why}; {_last_stop(known, before)}" if known.restarts else why
    stopped = f"last stop: {_last_stop(known, before)}" if known.restarts else ""
    if known.state == "RUNNING":
        now = time.time()
        if progress.written is None or progress.written <= now - (now if known.elapsed_s is None else known.elapsed_s):
            return "starting", stopped
        still = now - progress.written
        return "running", f"has logged nothing for {still / 60:.0f} min" if still > STILL_SECONDS else stopped
    words = {"COMPLETING": "ending", "CONFIGURING": "starting", "REQUEUE_HOLD": "held", "SPECIAL_EXIT": "held"}
    return words.get(known.state, known.state.lower()), stopped


def _last_stop(known: JobState, before: list[dict[str, Any]]) -> str:
    """Why the start before this one ended."""
    last = before[-1] if before else {}
    if known.restarts and last.get("restart") == known.restarts - 1:
        return str(last.get("reason"))
    return "a node failed, or it was requeued by hand"


def _ended_here(run_dir: Path, record: Record, known: JobState, progress: Progress) -> tuple[str, str]:
    """State of a job of this machine that runs no more: nobody writes down how those end, but the tasks themselves."""
    if progress.finished:
        return "finished", ""
    if known.reason:
        return "unknown", known.reason
    paths = sorted(Path(record.folder).glob("outcome.*.json"), key=_modified)
    said = object_of(text_of(paths[-1])) if paths else {}
    failure = _failure(run_dir / "failure.txt", since=max([record.path, *paths], key=_modified))
    if failure:
        return "failed", failure
    if said.get("outcome") == "done":
        return "finished", ""
    if said:
        return "stopped", f"stopped by {said.get('requested') or 'a signal'} at step {said.get('step')}"
    return "failed", f"it was killed, or ended without a word; see {log_path(record)}"


def _cut_off(record: Record, known: JobState, before: list[dict[str, Any]]) -> tuple[str, str]:
    """State of a job that ended before it could say how."""
    words = CUT_OFF.get(known.state)
    if words is None and known.state:
        words = f"SLURM says {known.state}"
    if words is None:
        return "failed", f"the job has gone, and SLURM does not remember it; see {log_path(record)}"
    state = "stopped" if known.state in STOPPED else "failed"
    if known.state in ("FAILED", "COMPLETED") and not before and not log_path(record).exists():
        words = f"it ended before any output: is {record.folder} on a path that all nodes share?"
    elif known.state == "FAILED":
        words = f"{words}; see {log_path(record)}"
    return state, words


def _failure(path: Path, since: Path) -> str:
    """The last failure in a line, if it is later than another file."""
    if _modified(path) < _modified(since):
        return ""
    line = next(iter(text_of(path).splitlines()), "")
    return re.sub(r"^[^,]*, start \S*: ", "", line)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
