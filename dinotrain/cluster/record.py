"""What is written down of each submission of a run: `RUN/jobs/0001.json`, `0002.json` ..."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dinotrain.distributed.failure import write_whole
from dinotrain.errors import UserError

FORMAT = 1
"""Of the files; a change that older code can't read counts it up."""

PATIENCE_S = 120
"""How long a submission may take before it is taken for one that broke off, where its process can't be looked for."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One submission; only the process that submits writes it, but for the id if that process was killed."""

    path: Path
    """Of its file; not stored in it."""
    cluster: str = "slurm"
    """ "slurm" or "local"."""
    job: str | None = None
    """The scheduler's id: "12", or "12_0" for an element of an array; local: process id of the controller. None while
    being submitted."""
    submitted: str = ""
    """When; ISO 8601 with the zone."""
    host: str = ""
    """Where it was submitted; a local job runs there."""
    pid: int = 0
    """Of the submitting process."""
    words: list[str] = field(default_factory=list)
    """What was typed."""
    cwd: str = ""
    """Where; relative paths of the configuration are relative to this folder."""
    name: str = ""
    """Of the job."""
    folder: str = ""
    """Of this submission, absolute: config.yaml, code/, and how each start of the job ended."""
    logs: str = ""
    """Absolute; the elements of an array share it."""
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    requeues: int = 0
    """How often the job may be queued again after an orderly stop."""
    restart_on_failure: int = 0
    """How often in a row, without getting further, after a failure that may pass."""
    code: dict[str, Any] = field(default_factory=dict)
    """snapshot: folder or null; revision; dirty; diff: file or null."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one.

        Raises:
            UserError: if the file is damaged, or of a newer version.
        """
        try:
            stored = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: can't be read as the record of a job ({error})") from error
        if not isinstance(stored, dict) or "format" not in stored:
            raise UserError(f"{path}: is not the record of a job")
        if stored["format"] != FORMAT:
            raise UserError(f"{path}: has format {stored['format']}; this version of dinotrain reads {FORMAT}")
        known = {each.name for each in fields(cls)} - {"path"}
        return cls(path=path, **{key: value for key, value in stored.items() if key in known})._with_own_job()

    def outcome(self, restart: int) -> Path:
        """The file in which the first process says how a start of the job came to an orderly end."""
        return Path(self.folder) / f"outcome.{restart}.json"

    @property
    def cancelled(self) -> Path:
        """A file that says that the job was asked to end for good; a signal may come before anybody catches it."""
        return Path(self.folder) / "cancelled"

    def known_as(self, job: str) -> Record:
        """With its id, which the job leaves for others, if the submitting process did not come to write it here."""
        if self.job is not None:
            return self
        with contextlib.suppress(OSError):
            write_whole(self._own_job, job)
        return replace(self, job=job)

    @property
    def _own_job(self) -> Path:
        return Path(self.folder) / "job"

    def _with_own_job(self) -> Record:
        if self.job is None and self.folder:
            with contextlib.suppress(OSError):
                return replace(self, job=self._own_job.read_text("utf-8").strip() or None)
        return self

    def write(self) -> None:
        """Put it in the place of what is there, at once: nobody sees half of it."""
        write_whole(self.path, self._text())

    def _text(self) -> str:
        stored = asdict(self)
        del stored["path"]
        return json.dumps({"format": FORMAT, **stored}, indent=1) + "\n"


def own_job(environ: Mapping[str, str]) -> str:
    """Id of the job that this process is part of, as its submitter knows it; "" for none."""
    if "SUBMITIT_LOCAL_JOB_ID" in environ:
        return environ["SUBMITIT_LOCAL_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def records(run_dir: Path) -> list[Record]:
    """All submissions of a run, oldest first; also one that is being made, without a job yet.

    Raises:
        UserError: if one is damaged.
    """
    # A file that is still empty is a claim in the making, or what a crash left of one.
    return [Record.read(path) for path in _paths(run_dir) if _size(path)]


def latest(run_dir: Path) -> Record | None:
    """The last submission that became a job."""
    return next((record for record in reversed(records(run_dir)) if record.job is not None), None)


def claim(run_dir: Path) -> Path:
    """Take the next free number for a submission: makes `RUN/jobs/NNNN.json`, which another one then can't take.

    Raises:
        UserError: if another submission of the run is under way, or the folder can't be written to.
    """
    folder = run_dir / "jobs"
    busy = UserError(f"output_dir: another submission of {run_dir} is under way; try again in a moment")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = _paths(run_dir)
        if taken and _under_way(taken[-1]):
            raise busy
        made = Record(path=next_path(run_dir), submitted=now(), host=socket.gethostname(), pid=os.getpid())
        with made.path.open("x", encoding="utf-8") as file:
            file.write(made._text())
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            raise busy from error
        raise UserError(f"output_dir: can't write to {folder} ({error.strerror})") from error
    return made.path


def next_path(run_dir: Path) -> Path:
    """The file of the next submission; not made yet."""
    taken = _paths(run_dir)
    return run_dir / "jobs" / f"{_number(taken[-1]) + 1 if taken else 1:04d}.json"


def now() -> str:
    """The time, ISO 8601 with the zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _under_way(path: Path) -> bool:
    """Whether a file is the claim of a submission that has not ended in any way."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if not _size(path):
        return age < PATIENCE_S
    record = Record.read(path)
    if record.job is not None or age >= PATIENCE_S:
        return False
    return record.host != socket.gethostname() or (record.pid != os.getpid() and Path(f"/proc/{record.pid}").exists())


def _paths(run_dir: Path) -> list[Path]:
    found = [path for path in (run_dir / "jobs").glob("*.json") if re.fullmatch(r"\d{4,}", path.stem)]
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    return int(path.stem)


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
