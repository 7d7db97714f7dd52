"""Looking after submitted runs: status, cancel, follow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dinotrain.cluster.following import follow_log
from dinotrain.cluster.progress import Progress
from dinotrain.cluster.reasons import reason_in_words
from dinotrain.cluster.record import Record, latest
from dinotrain.cluster.scheduler import cancel_job, job_state, signal_job
from dinotrain.cluster.status import RunStatus, find_runs, one_run, status_of, statuses
from dinotrain.errors import UserError
from dinotrain.training.display import duration

Thing = TypeVar("Thing")
Found = TypeVar("Found")

COLUMNS = ("run", "job", "state", "step", "", "left", "loss", "restarts", "nodes", "why")
NUMBERS = frozenset(("step", "", "left", "loss", "restarts"))
COLOURS = {"running": "green", "finished": "green", "pending": "yellow", "starting": "yellow", "failed": "red"}


def status(runs: list[str]) -> int:
    """Show a line for each run; returns the exit status, 1 if something is not a run."""
    found, exit_status = _each(runs, find_runs)
    rows = [_cells(each) for each in statuses(_all(found))]
    if rows:
        _show(rows)
    return exit_status


def cancel(runs: list[str], now: bool) -> int:
    """End the jobs of runs: in order, or `now`; returns the exit status."""
    # Of a folder above runs it would be too easy to forget which are in it.
    found, exit_status = _each(runs, one_run)
    done, failed = _each(_all([found]), lambda run: _cancel(run, now))
    for line in done:
        print(line)
    return max(exit_status, failed)


def follow(run: str) -> int:
    """Print what the first process of the run's latest job prints, until the job has ended; returns the exit status.

    Raises:
        UserError: if it is not a single run, has no job, or its scheduler can't be asked.
    """
    found = find_runs(run)
    if len(found) > 1:
        raise UserError(f"{run}: has {len(found)} runs, and one can be followed; expected one such as {found[0]}")
    record = latest(found[0])
    if record is None:
        raise UserError(f"{run}: was never submitted as a job, so there is no log to follow")
    try:
        follow_log(record, show=_print, say=_say, in_words=reason_in_words)
        ended = status_of(found[0])
        _say(f"job {record.job} has ended: {ended.state}{f' ({ended.why})' if ended.why else ''}")
    except KeyboardInterrupt:
        _say("")
        return 130
    except BrokenPipeError:
        # Whoever read along (head, less) has seen enough; Python's own end would write once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _all(found: Iterable[Iterable[Path]]) -> list[Path]:
    """Each run once, however often it was named."""
    return list({run.resolve(): run for runs in found for run in runs}.values())


def _each(things: Iterable[Thing], look: Callable[[Thing], Found]) -> tuple[list[Found], int]:
    """What is found for each; of those that are refused, a line each and exit status 1."""
    found, exit_status = [], 0
    for thing in things:
        try:
            found.append(look(thing))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            exit_status = 1
    return found, exit_status


def _cancel(run_dir: Path, now: bool) -> str:
    """Returns what was done."""
    record = latest(run_dir)
    if record is None:
        return f"{_short(run_dir)}: was never submitted as a job"
    state = job_state(record)
    job = f"{_short(run_dir)}: job {record.job}"
    if state.state == "COMPLETING":
        # One that has ended for good is left as it is; one that is requeued may be in this state, too.
        with suppress(UserError):
            cancel_job(record)
        return f"{job} is ending already, and will not start again"
    if not state.alive:
        return f"{job} has ended before"
    if state.state == "RUNNING" and not now:
        return _stop(record, job)
    record.cancelled.touch()
    cancel_job(record)
    if state.state == "PENDING":
        return f"{job} was waiting, and is cancelled"
    return f"{job} is cancelled; what came after its last checkpoint is lost, unless it is quick to save"


def _stop(record: Record, job: str) -> str:
    record.cancelled.touch()
    try:
        signal_job(record, "SIGTERM")
    except UserError as error:
        raise UserError(f"{error} (it will not be started again)") from error
    return f"{job} is asked to finish its step, save and end; resume=RUN goes on from there"


def _cells(each: RunStatus) -> list[str]:
    progress = each.progress
    left = progress.remaining_seconds if each.state == "running" else None
    return [
        _short(each.run_dir),
        each.job,
        each.state,
        *_steps(progress),
        "" if left is None else duration(left),
        "" if progress.loss is None else f"{progress.loss:.4f}",
        str(each.restarts),
        each.nodes,
        each.why,
    ]


def _steps(progress: Progress) -> tuple[str, str]:
    """Step of all, and the share."""
    if progress.steps is None:
        return str(progress.step), ""
    return f"{progress.step}/{progress.steps}", f"{progress.step / max(progress.steps, 1):.0%}"


def _short(path: Path) -> str:
    """As it is shortest to type from here."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute != here and absolute.is_relative_to(here) else str(path)


def _show(rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, plain columns elsewhere; without the columns that are empty in all rows."""
    drawn = sys.stdout.isatty()
    kept = [index for index, name in enumerate(COLUMNS) if name == "step" or any(row[index] for row in rows)]
    if drawn:
        # Below the table they have all the width, and paths can be copied.
        kept = [index for index in kept if COLUMNS[index] != "why"]
    names, cells = [COLUMNS[index] for index in kept], [[row[index] for index in kept] for row in rows]
    if drawn:
        _draw(names, cells, [f"{row[0]}: {row[-1]}" for row in rows if row[-1]])
    else:
        print("\n".join(_columns(names, cells)))


def _draw(names: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, COLOURS.get(cell, "") if name == "state" else "") for name, cell in zip(names, row)))
    console = Console(highlight=False)
    console.print(table)
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [names, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    aligned = [
        "  ".join(f"{cell:{'>' if name in NUMBERS else '<'}{width}}" for name, cell, width in zip(names, row, widths))
        for row in lines
    ]
    return [line.rstrip() for line in aligned]


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
