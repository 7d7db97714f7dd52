"""How a process of a run ends: its exit status, what it prints, and the report it leaves of a failure."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dinotrain.distributed.failure import Kind, Reports, is_lost_connection
from dinotrain.distributed.place import Place, find_place
from dinotrain.distributed.watch import Watch
from dinotrain.errors import FaultError, Status, UserError, is_full_or_forbidden

if TYPE_CHECKING:
    from dinotrain.distributed.world import World

OTHERS_SECONDS = 3.0
"""For the report of the process that failed first, which may come later than the break of connections to it."""


class Ended(NamedTuple):
    """How a run came to an orderly end."""

    step: int
    steps: int
    requested: str | None
    """The signal that asked for the end; None if it is done."""
    done: bool
    """Also the evaluation after the last step."""
    unit: str = "steps"
    """What is counted."""

    @property
    def status(self) -> Status:
        return Status.DONE if self.done else Status.STOPPED


class Attempt:
    """One start of a run in this process, as far as it has come; ends it in order, whatever happens."""

    def __init__(self, interrupted: str = "stopped before the first step; nothing to save") -> None:
        """Begin it; `interrupted` is what to say at a Ctrl-C."""
        self.interrupted = interrupted
        self.place: Place | None = None
        self.run_dir: Path | None = None
        """Where the report of a failure goes; None until that is known."""
        self.watch: Watch | None = None
        self._began = time.time()

    def carry_out(self, run: Callable[[], Status]) -> int:
        """Call it; returns the exit status, or leaves at once with it if others may be waiting for this process."""
        try:
            self.place = find_place()
            return run()
        except UserError as error:
            _say(f"error{self._name()}: {error}")
            fault = isinstance(error, FaultError)
            self._leave_report("fault" if fault else "refused", str(error))
            status = Status.FAULT if fault else Status.FAILED
        except KeyboardInterrupt:
            _say(self.interrupted)
            status = 130
        except Exception as error:
            status = self._failed(error)
        if self._several():
            # Python's own end would wait for the others, which may be waiting for this process.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status

    def join(self, device: str, stack: ExitStack, *, start_minutes: float, minutes: float) -> World:
        """Join the other processes, under a watch; both are left with the stack. See `join_world` and `Watch`."""
        from dinotrain.cluster.submission import refuse_another_job
        from dinotrain.distributed.world import join_world

        assert self.place is not None
        if self.place.rank == 0:
            refuse_another_job(self.reports().run_dir)
        self.watch = Watch(self.place, self.reports(), start_minutes=start_minutes, minutes=minutes)
        # Alone before a terminal there is a person who sees it stand still, and who may have stopped it in a debugger.
        if self._several() or sys.stdin is None or not sys.stdin.isatty():
            stack.enter_context(self.watch)
        return stack.enter_context(join_world(device, start_minutes, self.place, self.watch))

    def look_at_machines(self, world: World) -> None:
        """Check all machines; write down which process is where, for the report of a failure.

        Raises:
            FaultError: with the hosts that are not like the others.
        """
        from dinotrain.distributed.health_check import check_machines, differences

        facts = check_machines(world, self.reports().run_dir)
        if world.main:
            self.reports().begin([fact.host for fact in facts])
            for text in differences(facts):
                _say(f"warning: {text}")

    def reports(self) -> Reports:
        """Of this attempt."""
        assert self.place is not None
        assert self.run_dir is not None
        return Reports(self.run_dir, self.place.attempt, self._began)

    def _failed(self, error: Exception) -> Status:
        """What is not told in a line of ours already."""
        reason = _one_line(error)
        if is_full_or_forbidden(error):
            _say(f"error{self._name()}: {reason}")
            self._leave_report("refused", reason)
            return Status.FAILED
        if self._several() and is_lost_connection(error):
            _say(f"error{self._name()}: lost the connection to another process ({reason})")
            self._leave_report("lost", reason)
            return Status.FAULT
        traceback.print_exc()
        self._leave_report("error", reason)
        return Status.FAULT

    def _several(self) -> bool:
        return self.place is not None and self.place.size > 1

    def _name(self) -> str:
        return (
            f" (process {self.place.rank} on {self.place.host})" if self.place is not None and self.place.rank else ""
        )

    def _leave_report(self, kind: Kind, reason: str) -> None:
        if self.place is None or self.run_dir is None or not self.run_dir.is_dir():
            return
        # Until there is a watch there is nothing to watch.
        watch = self.watch or Watch(self.place, None, start_minutes=1, minutes=1)
        report = watch.report(kind, reason, "" if kind in ("refused", "fault") else traceback.format_exc())
        reports = self.reports()
        try:
            reports.add(report)
            # A launcher may be about to kill this process, too: first what is known now.
            for pause in (0.0, OTHERS_SECONDS) if kind == "lost" else (0.0,):
                time.sleep(pause)
                if self.place.rank == min(reports.processes(), default=self.place.rank):
                    reports.conclude()
        except (OSError, ValueError) as error:
            _say(f"the report of the failure could not be written to {self.run_dir} ({error})")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    """Name and message, without gloo's place in its source and its guess at the reason."""
    text = re.sub(r"^\[[^]]*\.cc:\d+\] ", "", str(error).partition(". This is typically caused by")[0])
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]
