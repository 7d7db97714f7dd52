"""Noticing that a run does not go on, and saying where every process is."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from dinotrain.distributed.failure import Kind, Report, Reports
from dinotrain.distributed.place import Place
from dinotrain.errors import Status

STEPS_BEFORE_STEADY = 3
"""Compilation, caches and connections make the first steps longer than all later ones."""
FRAMES = 15
CHECKPOINT_THREAD = "checkpoint"
STOOD_STILL_SECONDS = 5.0
"""A look that comes so much too late: the whole process did not run."""
GRACE_SECONDS = 10.0
"""For the others' reports, which come when their own time is up."""


class Watch:
    """A thread that ends the process, with a report of its stack, when it has not moved for too long.

    Collectives have no better time-out: torch's own is one for all of them, ends the process without a word on what it
    waits for, and says nothing of a process that hangs elsewhere.

    Args:
        start_minutes: what may take this long: everything up to a few steps, evaluations, checkpoints.
        minutes: what a part of a step may take after that.
    """

    def __init__(
        self,
        place: Place,
        reports: Reports | None,
        *,
        start_minutes: float,
        minutes: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.place, self.reports = place, reports
        self._limits = {True: start_minutes * 60, False: minutes * 60}
        self._leave = leave
        self._patient, self._since = True, time.monotonic()
        self._first_step: int | None = None
        self.step: int | None = None
        self.doing = "starting"
        self._moved = self._since
        self._still = (0.0, 0.0)  # when it went on, and how long it had not run
        self._ended = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def at(self, doing: str, step: int | None = None, *, patient: bool = False) -> None:
        """The process has moved: what it does now, at which step, and whether that may take as long as the start."""
        if step is not None:
            self._first_step = step if self._first_step is None else self._first_step
            self.step = step
        steady = self.step is not None and self.step >= (self._first_step or 0) + STEPS_BEFORE_STEADY
        self.doing, self._patient, self._since = doing, patient or not steady, time.monotonic()
        self._moved = self._since

    @property
    def stood_still(self) -> float:
        """Seconds in which the process did not run since it last moved, if that explains why the others waited."""
        when, gap = self._still
        return gap if when > self._moved and gap > self._limits[self._patient] / 2 else 0.0

    def report(self, kind: Kind, reason: str, stack: str) -> Report:
        """Of this process, as it is now."""
        return Report(
            process=self.place.rank,
            host=self.place.host,
            kind=kind,
            reason=reason,
            step=self.step,
            doing=self.doing,
            stack=stack,
            time=time.time(),
            stood_still=self.stood_still,
        )

    def _look(self) -> None:
        poll = min(1.0, *self._limits.values())
        looked = time.monotonic()
        while not self._ended.wait(poll):
            gap, looked = time.monotonic() - looked - poll, time.monotonic()
            if gap > STOOD_STILL_SECONDS:
                self._still = (looked, gap)
                # It may go on, if the others have waited for it.
                self._since += gap
            limit = self._limits[self._patient]
            if time.monotonic() - self._since > limit:
                self._give_up(limit)
                return

    def _give_up(self, limit: float) -> None:
        key = "parallel.start_timeout_minutes" if self._patient else "parallel.timeout_minutes"
        at = "" if self.step is None else f" at step {self.step}"
        reason = f"{self.doing}{at} for more than {limit / 60:g} min ({key})"
        report = self.report("hang", reason, self._stacks())
        _say(f"process {report.process} on {report.host}: {reason}\n{report.stack}")
        # What hangs may be the file system that the report is written to.
        last = threading.Timer(2 * GRACE_SECONDS, self._leave, (Status.FAULT,))
        last.daemon = True
        last.start()
        try:
            if self.reports is not None:
                _say(self._conclude(self.reports, report))
        except (OSError, ValueError) as error:
            _say(f"the report could not be written to {self.reports and self.reports.run_dir} ({error})")
        finally:
            last.cancel()
            self._leave(Status.FAULT)

    def _conclude(self, reports: Reports, report: Report) -> str:
        """Leaves the report, waits for the others', and makes one text of all, if that is up to this process."""
        reports.add(report)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and len(reports.processes()) < self.place.size:
            time.sleep(1.0)
        return reports.conclude().text if self.place.rank == min(reports.processes()) else ""

    def _stacks(self) -> str:
        """Where the main thread is, and a save under way."""
        frames = sys._current_frames()
        parts = [stack_of(frames.get(self._main or 0))]
        for thread in threading.enumerate():
            if thread.name == CHECKPOINT_THREAD:
                parts.append("  the save under way:\n" + stack_of(frames.get(thread.ident or 0)))
        return "".join(parts)


def _say(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)


def stack_of(frame: FrameType | None) -> str:
    """The innermost frames of a stack, as Python prints them: those that tell processes apart."""
    return "".join(traceback.format_stack(frame, FRAMES)) if frame is not None else ""
