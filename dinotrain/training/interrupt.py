"""Being asked to stop: finish the step, save, leave; a second Ctrl-C leaves at once.

SIGTERM and Ctrl-C ask for good; SIGUSR2 is what SLURM is told to send before a time limit and at a preemption, after
which the run is to go on.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # signals are to be caught before torch, which takes seconds, is there
    from dinotrain.distributed.world import World

ECHO_SECONDS = 2.0
"""torchrun passes a Ctrl-C on to processes that the terminal has sent it to already."""


class Interrupt:
    """Context in which SIGTERM, SIGINT and SIGUSR2 set `requested` instead of ending the process."""

    def __init__(self, at_once: str = "stopped at once; the last complete checkpoint stays") -> None:
        """Build it; `at_once` is what a second Ctrl-C says."""
        self.requested: str | None = None
        self._at_once = f"\n{at_once}\n".encode()
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def anywhere(self, world: World) -> bool:
        """Whether any process was asked to stop; all processes must call this together."""
        return world.any(self.requested is not None)

    def agree(self, world: World) -> str | None:
        """What all processes take for the signal: not each may have got one; all must call this together."""
        found = [name for name in world.gather(self.requested) if name is not None]
        if self.requested is None and found:
            self._since = time.monotonic()
        self.requested = "SIGUSR2" if "SIGUSR2" in found else next(iter(found), None)
        return self.requested

    def _handle(self, number: int, _: FrameType | None) -> None:
        echo = "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._since < ECHO_SECONDS
        if self.requested is not None and number == signal.SIGINT and not echo:
            os.write(2, self._at_once)
            os._exit(130)
        # A preemption sends both; that the run is to go on is what counts.
        if self.requested is None or number == signal.SIGUSR2:
            self.requested, self._since = signal.Signals(number).name, time.monotonic()
