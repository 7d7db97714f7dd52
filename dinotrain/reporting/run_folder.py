"""Everything a report is made of, read from a run folder; whatever is missing or damaged is left out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import yaml

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder tells it."""

    path: Path

    @cached_property
    def rows(self) -> list[Row]:
        """Rows of `metrics.jsonl`; lines that can't be read are passed over."""
        return [row for line in text_of(self.path / "metrics.jsonl").splitlines() if (row := object_of(line))]

    @cached_property
    def evaluations(self) -> list[Row]:
        """Rows of `evaluations.jsonl` (step, task, data, numbers): what was evaluated beside the training."""
        lines = text_of(self.path / "evaluations.jsonl").splitlines()
        return [
            row
            for row in map(object_of, lines)
            if isinstance(row.get("step"), int) and row.get("task") and isinstance(row.get("numbers"), dict)
        ]

    @cached_property
    def results(self) -> Row:
        return object_of(text_of(self.path / "results.json"))

    @cached_property
    def environment(self) -> Row:
        return object_of(text_of(self.path / "environment.json"))

    @cached_property
    def config_text(self) -> str:
        return text_of(self.path / "config.yaml")

    @cached_property
    def config(self) -> Row:
        try:
            found = yaml.safe_load(self.config_text)
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of every image that could not be read."""
        lines = text_of(self.path / "skipped.txt").splitlines()
        return [(name, reason) for name, _, reason in (line.partition("\t") for line in lines) if name]

    @cached_property
    def pictures(self) -> dict[str, list[Path]]:
        """Pictures of each kind, oldest first: `<kind>_<step>.png`."""
        kinds: dict[str, list[Path]] = {}
        for path in sorted(self.path.glob("pictures/*.png"), key=lambda path: (picture_step(path) or 0, path.name)):
            kinds.setdefault(re.sub(r"_\d+$", "", path.stem), []).append(path)
        return kinds

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.path.resolve().name)

    @property
    def step(self) -> int:
        """The last step on record."""
        steps = [row["step"] for row in self.rows if isinstance(row.get("step"), int)]
        done = self.results.get("steps")
        return max([*steps, int(done) if is_number(done) else 0])

    @property
    def total_steps(self) -> int | None:
        """Steps that the run was to have."""
        return self.setting("optim", "steps")

    @property
    def seconds(self) -> float | None:
        """Wall time of training up to the last record."""
        known = [value for value in (self.results.get("seconds"), self.latest("time")) if is_number(value)]
        return max(known, default=None)

    @property
    def finished(self) -> bool:
        # A report made again while a finished run's folder is used further goes by the rows, too.
        return bool(self.results.get("finished")) and (self.total_steps is None or self.step >= self.total_steps)

    @property
    def stopped(self) -> bool:
        """Whether the last thing on record is an orderly stop."""
        events = [row["event"] for row in self.rows if row.get("event")]
        return bool(events) and events[-1] == "interrupted" and not self.finished

    @property
    def restarts(self) -> int:
        """How often the run was started again."""
        return restarts(self.rows)

    @property
    def chance(self) -> float | None:
        """ln K of the DINO head: the loss of a network that tells nothing apart."""
        prototypes = self.setting("method", "dino_head", "num_prototypes")
        return math.log(prototypes) if is_number(prototypes) and prototypes > 1 else None

    @property
    def trained(self) -> str:
        """What the run trains, in words."""
        return "distilled student" if self.setting("teacher", "weights") else "trained teacher"

    @property
    def accuracies(self) -> list[tuple[str, str]]:
        """(label, key) of the accuracies to show: of what was trained first, then of what it is held against."""
        began = "before training" if self.setting("train", "start_from") else "untrained"
        return [
            (self.trained, "knn_top1"),
            (f"same network, {began}", "knn_top1_untrained"),
            ("raw pixels", "knn_top1_pixels"),
            ("frozen teacher", "knn_top1_teacher"),
        ]

    def setting(self, *keys: str) -> Any:
        """A value of the configuration; None if it has no such key."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def latest(self, key: str) -> Any:
        """The last value of a key that is not null: of the rows, else of the results (maybe an earlier part's)."""
        found = next((row[key] for row in reversed(self.rows) if row.get(key) is not None), None)
        return self.results.get(key) if found is None else found

    def values(self, key: str) -> list[float]:
        """All finite numbers of a key, over the rows."""
        return [value for _, value in self.points(key)]

    def points(self, key: str, over: str = "step") -> list[tuple[float, float]]:
        """(step or time, value) of every row that has a finite number for a key."""
        pairs = [(row[over], row[key]) for row in self.rows if key in row and over in row]
        return [(x, y) for x, y in pairs if is_number(x) and is_number(y)]


def restarts(rows: Sequence[Row]) -> int:
    """How often a run was started again, by the rows of its metrics."""
    return sum(row.get("event") == "resume" for row in rows)


def picture_step(path: Path) -> int | None:
    """The step in a picture's name."""
    found = re.search(r"_(\d+)$", path.stem)
    return int(found.group(1)) if found else None


def text_of(path: Path) -> str:
    """What is in a file; "" if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def object_of(text: str | bytes) -> Row:
    """A JSON object; an empty one for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
