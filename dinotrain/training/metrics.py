"""`metrics.jsonl`: one JSON object per logged step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinotrain.errors import UserError

Value = float | int | str | None


class MetricsFile:
    """Rows of a run on disk, in the order in which they were written.

    Any JSON reader takes the file: what is not finite is written as null. A line that a killed process left unfinished
    is not read, and is removed before the next row is written. Of several processes one writes.

    Args:
        path: the file; it and its folder are made with the first row.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._whole = False

    def append(self, row: Mapping[str, Value]) -> None:
        """Write a row, and hand it to the operating system: a process killed later does not lose it."""
        if not self._whole:
            self._drop_unfinished_line()
        with self.path.open("ab") as file:
            file.write(json.dumps({key: _readable(value) for key, value in row.items()}).encode() + b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows.

        Raises:
            UserError: if a line that was finished is not a JSON object.
        """
        return [row for _, row in self._lines()]

    def truncate(self, step: int) -> None:
        """Drop the rows of later steps than `step`, so that a resumed run writes the file of an uninterrupted one.

        Events stay: they tell what happened to the run, not what it learned.
        """
        if not self.path.exists():
            return
        kept = b"".join(line for line, row in self._lines() if "event" in row or (row.get("step") or 0) <= step)
        if len(kept) != self.path.stat().st_size:
            # Written beside and renamed: there is no moment at which a kill leaves half of the file.
            beside = self.path.with_name(self.path.name + ".new")
            beside.write_bytes(kept)
            beside.replace(self.path)

    def last(self, key: str) -> Value:
        """The latest value of a key that is not null; None if there is none."""
        return next((row[key] for row in reversed(self.rows()) if row.get(key) is not None), None)

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{self.path}, line {number}: not JSON; take the line out to go on") from error
            if not isinstance(row, dict):
                raise UserError(f"{self.path}, line {number}: not a JSON object; take the line out to go on")
            yield line, row

    def _drop_unfinished_line(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        self._whole = True


def _readable(value: Value) -> Value:
    """JSON has no numbers that are not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
