"""How far a run has come, from what lies in its folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.reporting.run_folder import RunFolder, object_of

TAIL_BYTES = 256 * 1024
"""Of metrics.jsonl: more rows than are looked at, also of a run of weeks."""
RATE_ROWS = 20
"""Logged rows that the speed is estimated from."""
RESUME = b'"event": "resume"'


@dataclass(frozen=True)
class Progress:
    """The numbers of a run; of several students, those of the one that is behind.

    Args:
        step: last on record.
        steps: that the run is to have; None if nothing says so.
        loss: of the last logged step.
        seconds_per_step: of the latest steps; None before there are two.
        finished: whether the last step was made and everything delivered.
        interrupted: what asked for the orderly end that is the last thing on record; None if something else is.
        resumes: how often training went on from a checkpoint.
        written: when the last row was written, in seconds since 1970.
    """

    step: int = 0
    steps: int | None = None
    loss: float | None = None
    seconds_per_step: float | None = None
    finished: bool = False
    interrupted: str | None = None
    resumes: int = 0
    written: float | None = None

    @property
    def remaining_seconds(self) -> float | None:
        """To the end at this speed."""
        if self.steps is None or self.seconds_per_step is None:
            return None
        return max(self.steps - self.step, 0) * self.seconds_per_step


def read_progress(run_dir: Path, submission: Path | None = None) -> Progress:
    """How far a run is.

    Args:
        submission: folder of its latest submission, with the configuration that counts.
    """
    steps = None if submission is None else RunFolder(submission).total_steps
    found = [_of_one(folder, steps) for folder in student_folders(run_dir) or [run_dir]]
    return min(found, key=lambda progress: (progress.step, not progress.finished))


def student_folders(run_dir: Path) -> list[Path]:
    """Those of the students of a run that has several."""
    if has_training(run_dir):
        return []
    return [path for path in sorted(run_dir.glob("*")) if path.is_dir() and has_training(path)]


def has_training(folder: Path) -> bool:
    """Whether a training run writes, or has written, here."""
    return any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl"))


def _of_one(folder: Path, steps: int | None) -> Progress:
    run = RunFolder(folder)
    steps = run.total_steps if steps is None else steps
    path = folder / "metrics.jsonl"
    rows = _last_rows(path)
    step = max((row["step"] for row in rows if isinstance(row.get("step"), int)), default=0)
    logged = [row for row in rows if "loss" in row]
    events = [row for row in rows if row.get("event")]
    interrupted = events[-1] if events and events[-1]["event"] == "interrupted" else None
    return Progress(
        step=step,
        steps=steps,
        loss=_number(logged[-1]["loss"]) if logged else None,
        seconds_per_step=_speed(rows),
        finished=bool(run.results.get("finished")) and (steps is None or step >= steps),
        interrupted=str(interrupted.get("reason") or "a request") if interrupted else None,
        resumes=_bytes(path).count(RESUME),
        written=path.stat().st_mtime if rows else None,
    )


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """The last rows that are whole; what can't be read is passed over."""
    content = _bytes(path, TAIL_BYTES)
    # The first may have been cut, the last be in the making.
    lines = content.split(b"\n")[1 if len(content) == TAIL_BYTES else 0 : -1]
    return [row for line in lines if (row := object_of(line))]


def _bytes(path: Path, last: int | None = None) -> bytes:
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(path.stat().st_size - last, 0))
            return file.read() if last is None else file.read(last)
    except OSError:
        return b""


def _speed(rows: list[dict[str, Any]]) -> float | None:
    """Seconds per step over the latest rows since training last went on."""
    since = max((index for index, row in enumerate(rows) if row.get("event") == "resume"), default=0)
    points = [
        (row["step"], row["time"])
        for row in rows[since:]
        if "loss" in row and isinstance(row.get("step"), int) and _number(row.get("time")) is not None
    ][-RATE_ROWS:]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    return max(points[-1][1] - points[0][1], 0.0) / (points[-1][0] - points[0][0])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
