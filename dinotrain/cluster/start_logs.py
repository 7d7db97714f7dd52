"""What a start of a job has printed: its script, srun, and each task, by the files that all starts append to."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from dinotrain.cluster.record import Record
from dinotrain.distributed.failure import Killed

START_MARK = "dinotrain: start"
"""The job's script begins each of the files anew with such a line."""
LAST_BYTES = 1024 * 1024
"""That are looked at of each file."""
SAID_BY_SRUN = r"srun: error: (\S+): tasks? ([\d,-]+): "


class StartLogs:
    """The logs of the latest start of a job.

    Args:
        record: of the job, with its id.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    @property
    def signalled(self) -> bool:
        """Whether SIGUSR2 came before a task could catch it, and ended it."""
        return bool(re.search(rf"{SAID_BY_SRUN}User defined signal 2$", self._first, re.MULTILINE))

    @property
    def error(self) -> str:
        """The first that srun told; "" if there was none."""
        found = re.search(r"^(?:srun|slurmstepd\S*): error: (.+)$", self._first, re.MULTILINE)
        return found[1] if found else ""

    @property
    def setup_failure(self) -> str:
        """Which line of `cluster.setup` failed; "" if none did."""
        found = re.search(r"^dinotrain: (cluster\.setup: .+)$", self._first, re.MULTILINE)
        return found[1] if found else ""

    @property
    def unseen_folder(self) -> str:
        """Which nodes do not see the run folder, in a sentence; "" if all do."""
        found = re.findall(r"^dinotrain: (\S+) does not see (.+)$", self._first, re.MULTILINE)
        if not found:
            return ""
        hosts = ", ".join(sorted({host for host, _ in found}))
        return f"{hosts}: no such folder there: {found[0][1]}; the run folder has to be on a path that all nodes share"

    def killed(self) -> dict[int, Killed]:
        """How tasks ended, by rank, as srun tells it: those that ended first, before the others were stopped."""
        text = re.split(r"Terminating StepId", self._first)[0]
        found: dict[int, Killed] = {}
        for host, tasks, how in re.findall(rf"^{SAID_BY_SRUN}(.+)$", text, re.MULTILINE):
            for rank in _numbers(tasks):
                words = f"ended by: {how}" if not how.startswith("Exited") else self._last_words(rank, how)
                found[rank] = Killed(host, words)
        return found

    @cached_property
    def _first(self) -> str:
        """What the job's script, srun and the first task printed."""
        return self._since_start(0)

    def _last_words(self, rank: int, how: str) -> str:
        lines = (self._since_start(rank) if rank else self._first).splitlines()
        said = [line for line in lines if line.strip() and not line.startswith(("srun:", "slurmstepd"))]
        return f"{how[0].lower()}{how[1:]}; its last words: {said[-1].strip()}" if said else how

    def _since_start(self, rank: int) -> str:
        text = _end_of(Path(self._record.logs, f"{self._record.job}_{rank}_log.out"))
        _, mark, after = text.rpartition(START_MARK)
        return after.partition("\n")[2] if mark else text


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LAST_BYTES, 0))
            return file.read(LAST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _numbers(text: str) -> list[int]:
    parts = (part.partition("-") for part in text.split(","))
    return [number for first, _, last in parts for number in range(int(first), int(last or first) + 1)]
