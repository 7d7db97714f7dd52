"""How each start of a job ended: `ended.jsonl` in the folder of its submission."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinotrain.reporting.run_folder import object_of, text_of


@dataclass(frozen=True)
class Ending:
    """How a start of a job ended: a line of the file. Of a start with two lines the second one counts."""

    restart: int
    time: str
    outcome: str
    """done, stopped or failed."""
    reason: str
    step: int | None
    then: str
    """ended or requeued."""


def endings(folder: Path) -> list[dict[str, Any]]:
    """All that are written down, oldest first; missing are those that SLURM cut off, and lines that can't be read."""
    return [row for line in text_of(_path(folder)).splitlines() if (row := object_of(line))]


def add_ending(folder: Path, ending: Ending) -> None:
    """Write one down."""
    line = json.dumps(asdict(ending)).encode() + b"\n"
    with _path(folder).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            # A full disk or a dead machine may have left half a line.
            line = line if file.read() == b"\n" else b"\n" + line
        file.write(line)


def orderly_restarts(earlier: Sequence[dict[str, Any]]) -> int:
    """How often the job was queued again after a stop in order: not after failures, nor by SLURM for a lost node."""
    return sum(_restarted(row, "stopped") for row in earlier)


def failures_in_a_row(earlier: Sequence[dict[str, Any]], step: int | None) -> int:
    """How often the job was queued again after a failure, since a start last got further than all before it.

    Args:
        earlier: how the starts before ended.
        step: that was reached by the start that has failed now.
    """
    furthest, failures = 0, 0
    for row in (*earlier, {"step": step}):
        reached = row.get("step") or 0
        if reached > furthest:
            furthest, failures = reached, 0
        failures += _restarted(row, "failed")
    return failures


def _restarted(row: dict[str, Any], outcome: str) -> bool:
    return row.get("outcome") == outcome and row.get("then") == "requeued"


def _path(folder: Path) -> Path:
    return folder / "ended.jsonl"
