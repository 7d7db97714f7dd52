"""Reading along what the first process of a job prints."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Callable
from pathlib import Path

from dinotrain.cluster.record import Record
from dinotrain.cluster.scheduler import JobState, job_state

READ_SECONDS = 0.5
ASK_SECONDS = 5.0
"""The scheduler is not to be asked too often."""
LATE_SECONDS = 3.0
"""How late the last words of another machine may be seen in a shared folder."""
FIRST_BYTES = 64 * 1024
"""Of a log that is there already: what lies before is not shown."""


class LogReader:
    """What is new in a file that others append to; one that was cut or replaced is begun anew.

    Args:
        path: of a file that may not be there yet.
        last: bytes of it to begin with, from the beginning of a line on; None for all.
    """

    def __init__(self, path: Path, last: int | None = None) -> None:
        self.path, self.skipped = path, False
        self._last = last
        self._begin()

    def read(self) -> str:
        """What was written since; "" if nothing was."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if self._file not in (None, found.st_ino) or found.st_size < self._position:
                    self._begin()
                    self._last = None
                elif self._file is None and self._last is not None and found.st_size > self._last:
                    self._skip_to(found.st_size - self._last, file.seek, file.readline)
                self._file = found.st_ino
                file.seek(self._position)
                content = file.read()
        except OSError:
            return ""
        self._position += len(content)
        return self._decoder.decode(content)

    def _begin(self) -> None:
        self._file: int | None = None
        self._position = 0
        # A character may be written in two parts.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def _skip_to(self, place: int, seek: Callable[[int], int], readline: Callable[[], bytes]) -> None:
        seek(place)
        self._position = place + len(readline())
        self.skipped = True


def log_path(record: Record) -> Path:
    """What the first process prints, and the job's script, over all starts of the job."""
    return Path(record.logs) / f"{record.job}_0_log.out"


def follow_log(
    record: Record,
    *,
    show: Callable[[str], object],
    say: Callable[[str], object],
    in_words: Callable[[str], str] = str,
) -> JobState:
    """Hand on the log as it grows, over all starts of the job, until the job has ended.

    Args:
        show: is called with each part of the log.
        say: is called with lines about the job, where there is nothing to show.
        in_words: says the reason of a job that waits in other words.

    Raises:
        UserError: if the scheduler can't be asked.
    """
    reader, said, asked = LogReader(log_path(record), FIRST_BYTES), "", -ASK_SECONDS
    state = job_state(record)
    while True:
        text = reader.read()
        if reader.skipped and text:
            say(f"the beginning is in {reader.path}")
            reader.skipped = False
        if text:
            show(text)
        if time.monotonic() - asked >= ASK_SECONDS:
            state, asked = job_state(record), time.monotonic()
            about = _about(record, state, in_words, reader.path.exists())
            if about and about != said:
                say(about)
            said = about
        if not state.alive:
            break
        time.sleep(READ_SECONDS)
    for _ in range(round(LATE_SECONDS / READ_SECONDS)):
        if text := reader.read():
            show(text)
        time.sleep(READ_SECONDS)
    return state


def _about(record: Record, state: JobState, in_words: Callable[[str], str], there: bool) -> str:
    """What there is to say of a job that prints nothing."""
    if state.state == "PENDING":
        restart = f" for start {state.restarts + 1}" if state.restarts else ""
        return f"job {record.job} is pending{restart}: {in_words(state.reason)}"
    return f"job {record.job} has begun on {state.nodes}" if state.alive and not there else ""
