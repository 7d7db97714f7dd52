"""The section of a model card on results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dinotrain.reporting.card_facts import UNMEASURED, CardFacts, table
from dinotrain.reporting.quantities import TASKS, interval_text, number_label, number_text, task_title
from dinotrain.reporting.results_folder import ResultsFolder, TaskResult
from dinotrain.reporting.run_folder import RunFolder, is_number
from dinotrain.reporting.task_points import task_points

Row = tuple[str, ...]

MOST_NUMBERS = 6
"""Of a task; the rest is in its results.json."""


def results(run: RunFolder, facts: CardFacts) -> str:
    """What was measured of the run's weights, and which tasks were not."""
    rows = [row for folder, task in _latest(facts.evaluations) for row in _task_rows(run, folder, task)]
    while_training = list(_while_training(run))
    rows += [row for _, row in while_training]
    measured = {task.name for folder in facts.evaluations for task in folder.tasks if task.numbers}
    measured |= {task for task, _ in while_training}
    rows += [(title, "", "", UNMEASURED, "", "") for task, title in TASKS.items() if task not in measured]
    columns = ("task", "data", "number", "value", "95 % interval", "conditions")
    note = (
        "Of frozen features. Intervals are over the choice of test images; they do not hold what another seed of "
        "the training would change."
    )
    return f"## Results\n\n{note}\n\n{table(columns, rows)}"


def _latest(evaluations: Iterable[ResultsFolder]) -> list[tuple[ResultsFolder, TaskResult]]:
    """For each task, data set and resolution the result from most images, of these that of the latest step.

    A quick look at a few images must not stand in for the whole, nor beside it in another resolution; tasks in the
    order in which they are listed.
    """
    found: dict[tuple[Any, ...], tuple[ResultsFolder, TaskResult]] = {}
    most: dict[tuple[Any, ...], int] = {}
    for folder in sorted(evaluations, key=_weight):
        for task in folder.tasks:
            if task.numbers:
                place = (task.name, folder.data_name, _is_student(folder))
                found[*place, task.size(folder)] = (folder, task)
                most[place] = _images(folder, "test") or 0
    whole = [pair for (*place, _), pair in found.items() if (_images(pair[0], "test") or 0) == most[*place]]
    order = list(TASKS)
    return sorted(whole, key=lambda pair: order.index(pair[1].name) if pair[1].name in TASKS else len(order))


def _weight(folder: ResultsFolder) -> tuple[int, int, float, str]:
    """Larger for more test images, then more training images, then later weights; an exported backbone is the last."""
    step = math.inf if folder.step is None else folder.step
    return _images(folder, "test") or 0, _images(folder, "train") or 0, step, str(folder.results.get("time") or "")


def _images(folder: ResultsFolder, split: str) -> int | None:
    found = folder.data(split).get("images")
    return found if isinstance(found, int) else None


def _is_student(folder: ResultsFolder) -> bool:
    return str(folder.weights.get("layout") or "").startswith("run of this trainer, student")


def _conditions(folder: ResultsFolder, task: TaskResult) -> list[str]:
    size = task.size(folder)
    told = [f"{size} px"] if size else []
    counts = ((_images(folder, split), what) for split, what in (("train", "training"), ("test", "test")))
    told += [f"{count:,} {what} images" for count, what in counts if count is not None]
    return told + ["the student itself, not its average"] * _is_student(folder)


def _task_rows(run: RunFolder, folder: ResultsFolder, task: TaskResult) -> Iterable[Row]:
    conditions = _conditions(folder, task)
    conditions += [f"weights of step {folder.step:,}"] if folder.step not in (None, run.step) else []
    for place, (key, value) in enumerate(list(task.numbers.items())[:MOST_NUMBERS]):
        sure = task.estimate if task.estimate is not None and task.estimate.key == key else None
        between = interval_text(key, sure.low, sure.high) if sure is not None else ""
        names = ("", "") if place else (task_title(task.name), folder.data_name)
        yield *names, number_label(key), number_text(key, value), between, "" if place else "; ".join(conditions)


def _while_training(run: RunFolder) -> Iterable[tuple[str, Row]]:
    """(task, row) of the training job's own evaluations, with what k-NN is held against."""
    for label, key in run.accuracies:
        value = run.latest(key)
        if is_number(value):
            yield "knn", (f"k-NN while training: {label}", "", "top-1", number_text("top1", value), "", "")
    for each in task_points(run):
        if not each.data:
            title, value = f"{task_title(each.task)} while training", each.points[-1][1]
            yield each.task, (title, "", number_label(each.key), number_text(each.key, value), "", "")
