"""What an evaluation left in its folder: `results.json`, `per_image/`, `pictures/`; what is damaged is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dinotrain.evaluation.bootstrap import interval, statistic
from dinotrain.evaluation.outcome import Matrix, Table
from dinotrain.reporting.charts import Chart, Series
from dinotrain.reporting.run_folder import Row, is_number, object_of, text_of

RESULTS = "results.json"
MOST_MARKED = 40
"""Points of a line up to which each is marked."""
Record = TypeVar("Record")


@dataclass(frozen=True)
class Estimate:
    """A number that the test images can be drawn anew for, with its 95 % interval."""

    key: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file."""

    path: Path
    title: str
    note: str


@dataclass(frozen=True)
class TaskResult:
    """What is on record of one task."""

    folder: Path
    name: str
    record: Row

    @cached_property
    def numbers(self) -> dict[str, float]:
        """All finite numbers, the headline first."""
        found = part(self.record, "numbers").items()
        return {str(key): float(value) for key, value in found if is_number(value)}

    @property
    def headline(self) -> str | None:
        """Key of the headline; None where it is not a number."""
        first = next(iter(part(self.record, "numbers")), None)
        return first if first in self.numbers else None

    @property
    def protocol(self) -> Row:
        return part(self.record, "protocol")

    def size(self, folder: ResultsFolder) -> int | None:
        """Side of the images that it saw, in pixels: its own, as of tasks on whole images, or that of all tasks."""
        found = self.protocol.get("size") or part(folder.results, "resolution").get("size")
        return found if isinstance(found, int) else None

    @property
    def seconds(self) -> float | None:
        found = self.record.get("seconds")
        return float(found) if is_number(found) else None

    @property
    def notes(self) -> list[str]:
        return [str(note) for note in _items(self.record, "notes")]

    @property
    def kind(self) -> str:
        return str(self.record.get("kind") or "")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Values per test image; none where there is no such file, or one that can't be read."""
        name = self.record.get("per_image")
        if not isinstance(name, str):
            return {}
        try:
            with (self.folder / name).open("rb") as opened, np.load(opened) as file:
                return {key: file[key] for key in file.files}
        except Exception:  # of zipfile, zlib and numpy, which have no common class for what is damaged
            return {}

    @cached_property
    def estimate(self) -> Estimate | None:
        """Interval of the number that the values per image are of; None where they give none of the numbers."""
        try:
            value = statistic(self.kind, self.arrays)
            ordered = sorted(self.numbers.items(), key=lambda item: item[0] != self.headline)
            key = next(key for key, number in ordered if math.isclose(number, value, rel_tol=1e-3, abs_tol=1e-6))
            stored = self.record.get("interval") if key == self.headline else None
            low, high = map(float, stored) if stored else interval(self.kind, self.arrays)
        except (ValueError, TypeError, IndexError, StopIteration):
            return None
        return Estimate(key, value, low, high) if math.isfinite(low) and math.isfinite(high) else None

    @cached_property
    def charts(self) -> list[Chart]:
        return self._records("charts", _chart)

    @cached_property
    def matrices(self) -> list[Matrix]:
        return self._records("matrices", _matrix)

    @cached_property
    def tables(self) -> list[Table]:
        return self._records("tables", _table)

    @cached_property
    def pictures(self) -> list[PictureFile]:
        def picture(row: Row) -> PictureFile:
            return PictureFile(self.folder / str(row["file"]), _text(row, "title"), _text(row, "note"))

        return self._records("pictures", picture)

    def _records(self, key: str, make: Callable[[Row], Record]) -> list[Record]:
        found = []
        for row in _items(self.record, key):
            try:
                found.append(make(row))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                continue
        return found


@dataclass(frozen=True)
class ResultsFolder:
    """An evaluation as its folder tells it."""

    path: Path

    @cached_property
    def results(self) -> Row:
        return object_of(text_of(self.path / RESULTS))

    @cached_property
    def tasks(self) -> list[TaskResult]:
        found = part(self.results, "tasks").items()
        return [TaskResult(self.path, str(name), row) for name, row in found if isinstance(row, dict)]

    @property
    def name(self) -> str:
        return str(self.results.get("name") or self.path.resolve().name)

    @property
    def weights(self) -> Row:
        found = self.results.get("weights")
        return found if isinstance(found, dict) else {"path": found} if found else {}

    @property
    def step(self) -> int | None:
        """Of the training that the weights are from."""
        found = self.weights.get("step")
        return found if isinstance(found, int) else None

    def data(self, split: str) -> Row:
        """What is known of a split: name, fingerprint, images, classes."""
        return part(part(self.results, "data"), split)

    @property
    def data_name(self) -> str:
        """Name of the data, of both splits where they differ."""
        names = [str(self.data(split)["name"]) for split in ("train", "test") if self.data(split).get("name")]
        return " → ".join(dict.fromkeys(names)) or "data"


def part(row: Mapping[str, Any], key: str) -> Row:
    """A mapping within a mapping; an empty one for anything else."""
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _items(row: Row, key: str) -> list[Any]:
    found = row.get(key)
    return found if isinstance(found, list) else []


def _chart(row: Row) -> Chart:
    series = []
    for line in row["series"]:
        points = [(float(x), float(y)) for x, y in line["points"] if is_number(x) and is_number(y)]
        if points:
            series.append(Series(str(line.get("label", "")), points, bool(line.get("dashed"))))
    if not series:
        raise ValueError("a chart without points")
    return Chart(
        title=_text(row, "title"),
        series=series,
        note=_text(row, "note"),
        x_label=_text(row, "x_label"),
        y_label=_text(row, "y_label"),
        log_x=bool(row.get("log_x")),
        markers=max(len(line.points) for line in series) <= MOST_MARKED,
    )


def _matrix(row: Row) -> Matrix:
    rows, columns = _texts(row["rows"]), _texts(row["columns"])
    values = tuple(tuple(float(x) if is_number(x) else math.nan for x in line) for line in row["values"])
    if not rows or not columns or len(values) != len(rows) or any(len(line) != len(columns) for line in values):
        raise ValueError("a matrix with other sides than its names")
    match row.get("marked"):
        case [int(down), int(across)]:
            marked = (down, across)
        case _:
            marked = None
    return Matrix(
        title=_text(row, "title"),
        rows=rows,
        columns=columns,
        values=values,
        note=_text(row, "note"),
        unit=_text(row, "unit"),
        marked=marked,
    )


def _table(row: Row) -> Table:
    rows = tuple(_texts(line) for line in row["rows"])
    return Table(title=_text(row, "title"), columns=_texts(row["columns"]), rows=rows, note=_text(row, "note"))


def _text(row: Row, key: str) -> str:
    return str(row.get(key) or "")


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in values)
