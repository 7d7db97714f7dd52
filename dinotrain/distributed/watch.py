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

STEPS_BEFORE_STEADY = 3
"""Compilation, caches and connections make the first steps longer than all later ones."""
FRAMES = 15
STOOD_STILL_SECONDS = 5.0
"""A look that comes so much too late: the whole process did not run."""
GRACE_SECONDS = 10.0
"""For the others' reports, which come when their own time is up."""
FAULT = 70
"""Exit status: a fault that may have passed when it is tried again."""


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
        self.stood_still = 0.0
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
                self.stood_still = gap
                # It may go on, if the others have waited for it.
                self._since += gap
            limit = self._limits[self._patient]
            if time.monotonic() - self._since > limit:
                self._give_up(limit)
                return

    def _give_up(self, limit: float) -> None:
        frame = sys._current_frames().get(self._main or 0)
        key = "parallel.start_timeout_minutes" if self._patient else "parallel.timeout_minutes"
        at = "" if self.step is None else f" at step {self.step}"
        reason = f"{self.doing}{at} for more than {limit / 60:g} min ({key})"
        report = self.report("hang", reason, stack_of(frame))
        text = f"process {report.process} on {report.host}: {reason}\n{report.stack}"
        if self.reports is not None:
            self.reports.add(report)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline and len(self.reports.read()) < self.place.size:
                time.sleep(0.2)
            if self.place.rank == min(self.reports.read(), default=0):
                text = self.reports.conclude().text
        print(text, file=sys.stderr, flush=True)
        self._leave(FAULT)


def stack_of(frame: FrameType | None) -> str:
    """The innermost frames of a stack, as Python prints them: those that tell processes apart."""
    return "".join(traceback.format_stack(frame, FRAMES)) if frame is not None else ""
