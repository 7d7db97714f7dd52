"""Commands of SLURM that answer what a test wants about any job, as the real ones (22.05) say it."""

from __future__ import annotations

import os
from pathlib import Path

from dinotrain.cluster.record import Record

WIDTH = 1000
UNKNOWN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
NO_ACCOUNTING = 'echo "Slurm accounting storage is disabled" >&2; exit 1'


class AnsweringSlurm:
    """Makes commands in a folder that is to be first in PATH; keeps what they were called with.

    Nothing is known of any job at first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._calls = folder / "calls.txt"
        for name, script in (("squeue", UNKNOWN), ("sacct", NO_ACCOUNTING), ("scancel", ""), ("scontrol", "")):
            self.command(name, script)

    def command(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self._calls}\n{script}\n')
        path.chmod(0o755)

    def queue(
        self,
        state: str,
        reason: str = "None",
        nodes: str = "",
        restarts: int = 0,
        elapsed: str = "0:00",
        limit: str = "UNLIMITED",
    ) -> None:
        """What squeue says of every job."""
        job = "".join(field.ljust(WIDTH) for field in (state, reason, nodes, str(restarts), elapsed, limit))
        self._answer("squeue", job, "echo 12.batch 12.0 12.1 12.extern" if state == "RUNNING" else "")

    def accounting(self, *lines: str) -> None:
        """What sacct says of every job."""
        self._answer("sacct", "\n".join(("JobID|State|Reason|NodeList|ElapsedRaw|TimelimitRaw", *lines)))

    def fail(self, name: str, line: str) -> None:
        self.command(name, f'echo "{line}" >&2; exit 1')

    @property
    def calls(self) -> list[str]:
        """All but the questions."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [line for line in lines if not line.startswith(("squeue", "sacct"))]

    def _answer(self, name: str, lines: str, steps: str = "") -> None:
        beside = self.folder / f"{name}.new"
        beside.write_text(f"{lines}\n")
        beside.rename(self.folder / f"{name}.txt")
        self.command(name, f'if [[ " $* " == *" -s "* ]]; then {steps or ":"}; else cat {self.folder / name}.txt; fi')


def make_record(run_dir: Path, *, job: str | None = "12", number: int = 1, **fields: object) -> Record:
    """A submission of a run, with its folders."""
    folder = run_dir / "jobs" / f"{number:04d}"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("optim: {steps: 100}\n")
    values = {"host": os.uname().nodename, "folder": str(folder), "logs": str(folder / "logs"), "name": "test"}
    record = Record(path=folder.with_suffix(".json"), job=job, **(values | fields))  # pyright: ignore[reportArgumentType]
    record.write()
    return record
