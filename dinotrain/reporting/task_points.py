"""How the headlines of the evaluation tasks developed over a training run."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.reporting.quantities import TASKS
from dinotrain.reporting.run_folder import RunFolder, is_number


@dataclass(frozen=True)
class TaskPoints:
    """The headline of one task on one data set: (step, value), in order of the steps."""

    task: str
    data: str
    """Empty for the data of the training job's own evaluations."""
    key: str
    points: list[tuple[float, float]]
    intervals: dict[float, tuple[float, float]]
    """95 % intervals by step, where they are on record."""


def task_points(run: RunFolder) -> list[TaskPoints]:
    """Of the training job's own evaluations, and of those made beside it; k-NN of the former is the report's own."""
    found: dict[tuple[str, str, str], dict[float, float]] = {}
    intervals: dict[tuple[str, str, str], dict[float, tuple[float, float]]] = {}
    for task in TASKS:
        prefix = f"{task}_"
        keys = (key for row in run.rows for key in row if key.startswith(prefix) and task != "knn")
        if (key := next(keys, None)) is not None:
            found[task, "", key.removeprefix(prefix)] = dict(run.points(key))
    for row in run.evaluations:
        headline, value = next(iter(row["numbers"].items()), (None, None))
        if not is_number(value):
            continue
        place, step = (str(row["task"]), str(row.get("data") or ""), str(headline)), row["step"]
        found.setdefault(place, {})[step] = float(value)
        # Of an earlier evaluation of the same step nothing must stay.
        intervals.setdefault(place, {}).pop(step, None)
        match row.get("interval"):
            case [low, high] if is_number(low) and is_number(high):
                intervals[place][step] = (float(low), float(high))
    return [
        TaskPoints(*place, sorted(points.items()), intervals.get(place, {}))
        for place, points in found.items()
        if points
    ]
