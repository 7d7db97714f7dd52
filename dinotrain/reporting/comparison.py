"""Results of several networks beside each other, and which of the differences are more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinotrain.errors import UserError
from dinotrain.evaluation.bootstrap import Difference, paired_difference
from dinotrain.reporting.quantities import lower_is_better
from dinotrain.reporting.results_folder import ResultsFolder, TaskResult, part

CONDITIONS = ("resolution", "normalization", "precision", "seed")
"""What is set for all tasks of an evaluation."""


@dataclass(frozen=True)
class Evaluated:
    """The results of one task on one data set, and the name of whose they are."""

    name: str
    folder: ResultsFolder
    task: TaskResult

    @property
    def test_set(self) -> str:
        return str(self.folder.data("test").get("fingerprint") or "")

    @property
    def age(self) -> float:
        """Step of the weights; those of an exported backbone are the last."""
        return math.inf if self.folder.step is None else self.folder.step

    @property
    def conditions(self) -> dict[str, Any]:
        """All that the numbers depend on besides the weights and the test images."""
        # A protocol also says what the task has found, such as the best of several values.
        own = part(self.task.record, "options") or self.task.protocol
        common = {key: self.folder.results.get(key) for key in CONDITIONS}
        return own | common | {"training images": self.folder.data("train").get("fingerprint")}


@dataclass(frozen=True)
class Line:
    """One of the networks of a comparison."""

    of: Evaluated
    difference: Difference | None = None
    """To the first; None for itself, and where that can't be said."""
    why_not: str = ""
    """There is no difference to the first."""
    unlike: tuple[str, ...] = ()
    """In what the protocol is another than that of the first."""

    @property
    def verdict(self) -> str | None:
        """Whether it is "better" or "worse" than the first, or the difference may be "noise"."""
        if self.difference is None:
            return None
        if not self.difference.distinct:
            return "noise"
        headline = self.of.task.headline
        return "better" if (self.difference.value > 0) != lower_is_better(headline or "") else "worse"


@dataclass(frozen=True)
class Comparison:
    """All networks that were evaluated by one task on data of one name."""

    task: str
    data: str
    headline: str
    lines: Sequence[Line]


def compare_all(found: Sequence[tuple[str, ResultsFolder]], *, all_steps: bool = True) -> list[Comparison]:
    """A comparison for every task and data set, in the order in which they come.

    Args:
        found: names of networks, and where their results are; several folders may have the same name.
        all_steps: of a training run, too; else the newest that a task was carried out at on a test set.
    """
    evaluated = [Evaluated(name, folder, task) for name, folder in found for task in folder.tasks if task.headline]
    if not all_steps:
        evaluated = _newest(evaluated)
    return [_compared(_named_apart(group)) for group in _groups(evaluated)]


def nothing_shared(comparisons: Sequence[Comparison]) -> str:
    """Why there is not a single pair to compare, in words; empty if there is one."""
    owners: dict[str, dict[tuple[str, ...], set[str]]] = {"task": {}, "data": {}, "test set": {}}
    for each in (line.of for comparison in comparisons for line in comparison.lines):
        place = (each.task.name, each.folder.data_name, each.test_set)
        for depth, sets in enumerate(owners.values(), 1):
            sets.setdefault(place[:depth], set()).add(str(each.folder.path))
    missing = (what for what, sets in owners.items() if all(len(folders) < 2 for folders in sets.values()))
    return {
        "task": "no task was carried out for two of them",
        "data": "no task was carried out on the same data for two of them",
        "test set": "no task was measured on the same test images for two of them",
    }.get(next(missing, ""), "")


def _newest(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Those of the last step of each network, task and test set."""
    last: dict[tuple[str, ...], float] = {}
    places = [(each.name, each.task.name, each.folder.data_name, each.test_set) for each in evaluated]
    for place, each in zip(places, evaluated):
        last[place] = max(last.get(place, -math.inf), each.age)
    return [each for place, each in zip(places, evaluated) if each.age == last[place]]


def _groups(evaluated: Sequence[Evaluated]) -> list[list[Evaluated]]:
    """Those of one task on data of one name, by test images where a network was measured on several sets."""
    same: dict[tuple[str, str], dict[str, list[Evaluated]]] = {}
    for each in evaluated:
        sets = same.setdefault((each.task.name, each.folder.data_name), {})
        sets.setdefault(each.test_set, []).append(each)
    groups = []
    for first, *rest in (list(sets.values()) for sets in same.values()):
        groups.append(first)
        for group in rest:
            # Those that were measured on other images alone are shown beside the rest, to say so.
            apart = {each.name for each in group} & {each.name for each in first}
            groups.append(group) if apart else first.extend(group)
    place = {id(each): number for number, each in enumerate(evaluated)}
    return [sorted(group, key=lambda each: place[id(each)]) for group in groups]


def _named_apart(group: Sequence[Evaluated]) -> list[Evaluated]:
    """Several results of one network get the name of their folder, too."""
    names = [each.name for each in group]
    return [
        Evaluated(f"{each.name}/{each.folder.path.name}", each.folder, each.task)
        if names.count(each.name) > 1
        else each
        for each in group
    ]


def _compared(group: Sequence[Evaluated]) -> Comparison:
    first, *others = group
    lines = [Line(first), *(_line(first, other) for other in others)]
    return Comparison(first.task.name, first.folder.data_name, first.task.headline or "", lines)


def _line(first: Evaluated, other: Evaluated) -> Line:
    unlike = tuple(_differences(first.conditions, other.conditions))
    try:
        return Line(other, difference=_difference(first, other), unlike=unlike)
    except UserError as error:
        return Line(other, why_not=str(error), unlike=unlike)


def _difference(first: Evaluated, other: Evaluated) -> Difference:
    """Of the headlines, image by image.

    Raises:
        UserError: with the reason why there is none.
    """
    a, b = first.task, other.task
    if a.headline != b.headline:
        raise UserError(f"its headline is {b.headline}, not {a.headline}")
    if not first.test_set or first.test_set != other.test_set:
        raise UserError("measured on other test images")
    if len(a.arrays.get("rows", ())) == 1:
        raise UserError("of a single test image there is no telling")
    for each in (a, b):
        if each.estimate is None or each.estimate.key != each.headline:
            raise UserError(
                "values per image are missing or damaged"
                if each is b
                else "values per image of the first are missing or damaged"
            )
    if a.kind != b.kind:
        raise UserError(f"its values per image are of kind {b.kind}, not {a.kind}")
    if not np.array_equal(a.arrays.get("rows", ()), b.arrays.get("rows", ())):
        raise UserError("other images of the test set could be read")
    try:
        found = paired_difference(a.kind, a.arrays, b.arrays)
    except ValueError as error:
        raise UserError(f"values per image do not go together: {error}") from error
    if not math.isfinite(found.low + found.high):
        raise UserError("too few of the test images have a value")
    return found


def _differences(a: dict[str, Any], b: dict[str, Any], place: str = "") -> Iterable[str]:
    """Keys whose values differ, with the other's value where that is short."""
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        name = f"{place}{key}"
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(part(a, key), part(b, key), f"{name}.")
        elif one != other:
            values = f"{other} instead of {one}"
            yield f"{name} {values}" if len(values) <= 60 else name


def as_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The same in types that JSON has."""
    return {
        "format": 1,
        "comparisons": [vars(each) | {"lines": list(map(_record, each.lines))} for each in comparisons],
    }


def _record(line: Line) -> dict[str, Any]:
    task, folder, sure = line.of.task, line.of.folder, line.of.task.estimate
    own = sure is not None and sure.key == task.headline
    return {
        "name": line.of.name,
        "folder": str(folder.path),
        "weights": {key: folder.weights.get(key) for key in ("path", "digest", "step")},
        "numbers": task.numbers,
        "interval": [sure.low, sure.high] if sure is not None and own else None,
        "difference": line.difference and line.difference._asdict(),
        "verdict": line.verdict,
        "why_not": line.why_not or None,
        "protocol_differs": list(line.unlike),
    }
