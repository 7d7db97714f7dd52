"""How far a long job before the training has come, on one line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PATIENCE = 1.0
"""Seconds before anything is shown."""
_REDRAW = 0.1
"""Seconds between two pictures of the line on a terminal."""
_REPEAT = 10.0
"""Seconds between two lines where the output is no terminal."""


@contextmanager
def progress(what: str, total: int | None = None, unit: str = "files") -> Iterator[Callable[[int], None]]:
    """Shows how far a job has come, if it takes more than a second: a bar on a terminal, else a line every 10 s.

    Only the first process of a machine shows anything (`LOCAL_RANK` 0 or not set), on the standard error. No thread
    is started: the picture changes when the job reports.

    Args:
        what: the job, such as "Listing images".
        total: how much there is to do; None where that is not known.
        unit: what is counted.

    Yields:
        A function to call with how much is done so far, as often as one likes, by one thread at a time.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield _silent
        return
    console = Console(stderr=True)
    line = _Bar(console, what, total, unit) if console.is_terminal else _Lines(what, total, unit)
    try:
        yield line.report
    finally:
        line.close()


def _silent(done: int) -> None:
    """Report of a process that shows nothing."""


def _count(done: int, total: int | None, unit: str) -> str:
    return f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"


class _Lines:
    """A line of text now and then, for logs."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = time.monotonic()
        self._due = self._start + _PATIENCE

    def report(self, done: int) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + _REPEAT
            seconds = now - self._start
            count = _count(done, self._total, self._unit)
            print(f"{self._what}: {count} in {seconds:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left open."""


class _Bar:
    """A line on the terminal that goes away at the end."""

    def __init__(self, console: Console, what: str, total: int | None, unit: str) -> None:
        self._total, self._unit = total, unit
        self._due = time.monotonic() + _PATIENCE
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), TextColumn("{task.fields[count]}")]
        columns[1:1] = [] if total is None else [BarColumn()]
        columns += [TimeElapsedColumn() if total is None else TimeRemainingColumn()]
        self._picture = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task = self._picture.add_task(what, total=total, count="")

    def report(self, done: int) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + _REDRAW
            self._picture.start()
            self._picture.update(self._task, completed=done, count=_count(done, self._total, self._unit))
            self._picture.refresh()

    def close(self) -> None:
        self._picture.stop()
