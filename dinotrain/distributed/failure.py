"""Why a run failed, in one place: each process leaves a report, and one text is made of all of them.

A run folder holds `failures/<attempt>/`: `processes.json` says which process runs where, `process_00003.json` is the
report of a process that failed. `failure.txt` beside it is the last failure in words. Files are written under another
name and renamed; each has one writer, or writers that write the same.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["error", "refused", "fault", "hang", "lost"]
"""error: an exception; refused: the user's to put right; fault: a machine's; hang: it did not go on; lost: only the
connection to another process broke."""


_CONNECTION_LOST = re.compile(r"connection (closed|reset) by peer|\bgloo\b|nccl(Remote|System)Error", re.IGNORECASE)
WAITING_FOR_IMAGES = "waiting for images"
START_SECONDS = 60.0
"""How much later than the first the last process of a start may begin."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a process that failed says of itself."""

    process: int
    host: str
    kind: Kind
    reason: str
    """One line."""
    step: int | None
    doing: str
    stack: str
    """Where it was: traceback, or the stack of its main thread."""
    time: float
    """Seconds since 1970."""
    stood_still: float = 0.0
    """Seconds in which not even its threads ran: suspended, swapped out, or without a processor."""


@dataclass(frozen=True)
class Failure:
    """All reports of an attempt together."""

    reason: str
    """One line: who failed first, and how."""
    text: str
    """The reason, and the stack of every process; processes with the same stack stand together."""
    for_good: bool
    """Whether it would fail again: a mistake of the user's."""
    step: int | None


class Killed(NamedTuple):
    """How a process ended that may not have left a report, as its launcher tells it."""

    host: str
    how: str


class Reports:
    """The reports of one attempt.

    Args:
        run_dir: the run's folder.
        attempt: `Place.attempt`.
        since: when this start began, in seconds since 1970; launchers that number no starts give several the same
            name, and what an earlier one has left does not count.
    """

    def __init__(self, run_dir: Path, attempt: str, since: float = 0.0) -> None:
        self.run_dir, self.attempt, self.folder = run_dir, attempt, run_dir / "failures" / attempt
        self._oldest = since - START_SECONDS

    def begin(self, hosts: Sequence[str]) -> None:
        """Write down which process runs where; by the first process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "processes.json", json.dumps(list(hosts)))

    def clear(self) -> None:
        """Take away what is there, after an orderly end."""
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def add(self, report: Report) -> None:
        """Leave a report, if the run has got as far as to have a folder; the first of a process counts."""
        path = self._path(report.process)
        if not self.run_dir.is_dir() or self._counts(path):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(report)))

    def processes(self) -> list[int]:
        """Those that have left a report, by the names of the files alone."""
        found = (path for path in self.folder.glob("process_*.json") if self._counts(path))
        return sorted(int(path.stem.partition("_")[2]) for path in found)

    def read(self) -> dict[int, Report]:
        """By process; what can't be read is left out."""
        return {rank: report for rank in self.processes() if (report := _report(self._path(rank)))}

    def hosts(self) -> list[str]:
        """Of the processes by rank; empty if they did not all come."""
        path = self.folder / "processes.json"
        return list(_read(path) or []) if self._counts(path) else []

    def _path(self, process: int) -> Path:
        return self.folder / f"process_{process:05d}.json"

    def _counts(self, path: Path) -> bool:
        """Whether a file is there, and of this start."""
        try:
            return path.stat().st_mtime > self._oldest
        except OSError:
            return False

    def conclude(self, killed: Mapping[int, Killed] | None = None, otherwise: str = "") -> Failure:
        """Make one text of all reports, and leave it as `failure.txt`.

        Args:
            killed: how processes ended of which that is known: by rank.
            otherwise: the reason if no process left a report.
        """
        failure = compose(self.read(), self.hosts(), killed or {}, otherwise)
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        write_whole(self.run_dir / "failure.txt", f"{when}, start {self.attempt}: {failure.text}")
        return failure


def compose(
    reports: Mapping[int, Report], hosts: Sequence[str], killed: Mapping[int, Killed], otherwise: str = ""
) -> Failure:
    """One failure from what is known of the processes; `hosts` by rank, as far as known."""
    where = {rank: each.host for rank, each in (*killed.items(), *reports.items())}
    where = dict(enumerate(hosts)) | where
    causes = [report for report in reports.values() if report.kind in ("error", "refused", "fault")]
    # Those that were stopped after the first to fail say nothing about it.
    dead = {rank: each.how for rank, each in killed.items() if rank not in reports}
    silent = [rank for rank in where if rank not in reports and rank not in dead]
    hanging = [report for report in reports.values() if report.kind == "hang"]
    frozen = [report for report in reports.values() if report.stood_still] if hanging else []
    if causes:
        first = min(causes, key=lambda report: report.time)
        own = first.reason.removeprefix(f"{first.host}: ")
        reason = f"{_who([first.process], where)}: {own}"
    elif dead:
        ranks = sorted(dead)
        reason = f"{_who(ranks, where)}: {dead[ranks[0]]}"
    elif frozen:
        longest = max(report.stood_still for report in frozen)
        who = _who([report.process for report in frozen], where)
        reason = f"{who} stood still for {longest:.0f} s (suspended, or without a processor); the others waited"
    elif hanging and silent:
        reason = f"{_who(silent, where)} did not answer any more; the others waited ({hanging[0].reason})"
    elif hanging:
        behind = _behind(hanging)
        reason = f"{_who([report.process for report in behind], where)} did not go on: {behind[0].reason}"
    elif silent and reports:
        reason = f"{_who(silent, where)} ended without a word; the others lost the connection"
    else:
        reason = next((report.reason for report in reports.values()), otherwise)
    steps = [report.step for report in reports.values() if report.step is not None]
    return Failure(
        reason,
        _text(reason, reports, dead, silent if reports else [], where),
        for_good=bool(causes) and all(report.kind == "refused" for report in causes),
        step=max(steps, default=None),
    )


def _behind(hanging: Sequence[Report]) -> list[Report]:
    """Those that the others wait for: at an earlier step, or not waiting in a collective while others are."""
    first = min(report.step or 0 for report in hanging)
    found = [report for report in hanging if (report.step or 0) == first]
    for alone in (
        [report for report in found if report.doing == WAITING_FOR_IMAGES],
        [report for report in found if not waits_for_others(report.stack)],
    ):
        if 0 < len(alone) < len(found):
            return alone
    return found


def waits_for_others(stack: str) -> bool:
    """Whether a stack ends in a collective, or in the backward pass, which has some of its own."""
    last = re.findall(r'File "([^"]+)"', stack)[-1:]
    return any(re.search(r"torch/(distributed|autograd)/", path) for path in last)


def _text(
    reason: str, reports: Mapping[int, Report], dead: Mapping[int, str], silent: Sequence[int], where: Mapping[int, str]
) -> str:
    groups: dict[tuple, list[int]] = {}
    for rank, report in sorted(reports.items()):
        groups.setdefault((report.kind, report.step, report.doing, report.stack), []).append(rank)
    for rank, how in sorted(dead.items()):
        groups.setdefault((how, None, "", ""), []).append(rank)
    if silent:
        groups["left no report", None, "", ""] = sorted(silent)
    parts = [reason, ""]
    for (kind, step, doing, stack), ranks in groups.items():
        what = {"hang": "did not go on", "lost": "lost the connection to another process"}.get(kind, kind)
        at = "" if step is None else f", step {step}"
        parts.append(f"{_who(ranks, where)}: {what}{at}{f', {doing}' if doing else ''}")
        if kind not in ("hang",) and ranks[0] in reports:
            parts.append(f"    {reports[ranks[0]].reason}")
        parts += [f"    {line}" for line in stack.rstrip().splitlines()]
        parts.append("")
    return "\n".join(parts)


def _who(ranks: Sequence[int], where: Mapping[int, str]) -> str:
    hosts = list(dict.fromkeys(where[rank] for rank in ranks if rank in where))
    shown = ", ".join(hosts[:8]) + (" ..." if len(hosts) > 8 else "")
    return f"process{'es' * (len(ranks) > 1)} {ranges(ranks)}{f' on {shown}' if hosts else ''}"


def is_lost_connection(error: BaseException) -> bool:
    """Whether an exception tells of another process's end only."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError, ConnectionError)):
        return True
    # NCCL tells broken GPUs in the same way, and gloo a closed connection as a plain RuntimeError.
    told = isinstance(error, dist.DistBackendError) or type(error) is RuntimeError
    return told and bool(_CONNECTION_LOST.search(str(error)))


def ranges(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 as "0-2, 5"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it."""
    # On two machines there may be processes of the same number.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _report(path: Path) -> Report | None:
    stored = _read(path)
    names = {field.name for field in fields(Report)}
    # Another version's may have other keys.
    return Report(**stored) if isinstance(stored, dict) and stored.keys() <= names else None


def _read(path: Path):
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
