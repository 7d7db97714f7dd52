"""How the headlines of the evaluation tasks developed over a training run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dinotrain.reporting.quantities import TASKS
from dinotrain.reporting.run_folder import Row, RunFolder, is_number


class Place(NamedTuple):
    """What values must agree in to be points of one line; empty or None where it is not on record."""

    task: str
    data: str
    key: str
    test: str = ""
    """Fingerprint of the test images."""
    size: float | None = None
    """Of the images, in pixels."""
    crop: float | None = None
    """Share of their side that was cropped out of them."""
    train: int | None = None
    """Number of training images."""

    @classmethod
    def of(cls, row: Row, key: str) -> Place:
        """Of a row of `evaluations.jsonl`."""
        seen, train = row.get("resolution"), row.get("train")
        size, crop = (seen.get(name) if isinstance(seen, dict) else None for name in ("size", "crop_fraction"))
        return cls(
            task=str(row["task"]),
            data=str(row.get("data") or ""),
            key=key,
            test=str(row.get("fingerprint") or ""),
            size=size if is_number(size) else None,
            crop=crop if is_number(crop) else None,
            train=train if isinstance(train, int) else None,
        )


@dataclass(frozen=True)
class TaskPoints:
    """The headline of one task on one data set: (step, value), in order of the steps."""

    task: str
    data: str
    """Its name, and in brackets what tells it apart where it was evaluated on in several ways; empty for the data of
    the training job's own evaluations."""
    key: str
    points: list[tuple[float, float]]
    intervals: dict[float, tuple[float, float]]
    """95 % intervals by step, where they are on record."""


def task_points(run: RunFolder) -> list[TaskPoints]:
    """Of the training job's own evaluations, and of those made beside it; k-NN of the former is the report's own."""
    found: dict[Place, dict[float, float]] = {}
    intervals: dict[Place, dict[float, tuple[float, float]]] = {}
    for task in TASKS:
        prefix = f"{task}_"
        keys = (key for row in run.rows for key in row if key.startswith(prefix) and task != "knn")
        if (key := next(keys, None)) is not None:
            found[Place(task, "", key.removeprefix(prefix))] = dict(run.points(key))
    for row in run.evaluations:
        headline, value = next(iter(row["numbers"].items()), (None, None))
        if not is_number(value):
            continue
        place, step = Place.of(row, str(headline)), row["step"]
        found.setdefault(place, {})[step] = float(value)
        # Of an earlier evaluation of the same step nothing must stay.
        intervals.setdefault(place, {}).pop(step, None)
        match row.get("interval"):
            case [low, high] if is_number(low) and is_number(high):
                intervals[place][step] = (float(low), float(high))
    labels = _labels([place for place, points in found.items() if points])
    return [
        TaskPoints(place.task, label, place.key, sorted(found[place].items()), intervals.get(place, {}))
        for place, label in labels.items()
    ]


def _labels(places: Iterable[Place]) -> dict[Place, str]:
    """The name of each one's data; of several with one name, what tells them apart, too."""
    groups: dict[tuple[str, str, str], list[Place]] = {}
    for place in places:
        groups.setdefault(place[:3], []).append(place)
    labels: dict[Place, str] = {}
    for group in groups.values():
        tests = list(dict.fromkeys(place.test for place in group))
        crops = len({place.crop for place in group} - {None}) > 1
        for place in group:
            told = _told(place, tests, crops) if len(group) > 1 else ""
            labels[place] = f"{place.data} ({told})" if told else place.data
    return labels


def _told(place: Place, tests: list[str], crops: bool) -> str:
    parts = [f"{place.train:,} train"] if place.train is not None else []
    parts += [f"{place.size:g} px"] if place.size is not None else []
    parts += [f"crop {place.crop:g}"] if crops and place.crop is not None else []
    if len(tests) > 1 and place.test:
        counts = [found.group(1) if (found := re.match(r"(\d+) images ", test)) else "" for test in tests]
        number = tests.index(place.test)
        alone = counts[number] and counts.count(counts[number]) == 1
        parts.append(f"{int(counts[number]):,} test" if alone else f"test set {number + 1}")
    return ", ".join(parts)
