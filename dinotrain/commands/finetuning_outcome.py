"""What a run of finetune found, as charts, tables and notes."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinotrain.evaluation.outcome import Chart, PerImage, Series, Table
from dinotrain.finetuning.records import VALIDATION
from dinotrain.finetuning.scores import Measured
from dinotrain.finetuning.state import FinetuneState
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.reporting.quantities import number_label

SHOWN = 5
"""Classes that are named."""


def per_image(scores: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> PerImage:
    """What an interval of the headline is drawn from."""
    if labels.ndim == 1:
        right = (scores.argmax(axis=1) == labels).astype(np.float32)
        return PerImage(kind="mean", rows=rows, arrays={"value": right})
    return PerImage(kind="average_precision", rows=rows, arrays={"scores": scores, "labels": labels})


def threshold_notes(classes: tuple[str, ...], measured: Measured) -> tuple[str, ...]:
    """How the thresholds were chosen; nothing where classes exclude each other."""
    if measured.thresholds is None:
        return ()
    missing = [name for name, count in zip(classes, measured.images) if not count]
    if not missing:
        return ("the threshold of each class is the one with the highest F1 on the validation images",)
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    names = f"{', '.join(missing[:SHOWN])}{more}"
    return (f"threshold 0.5 for {names}, which no validation image has; the others are those of the highest F1",)


def end_notes(state: FinetuneState, recipe: OptimizationRecipe) -> tuple[str, ...]:
    """Why the run ended early, if it did."""
    if state.step == recipe.steps:
        return ()
    worse = state.progress.worse
    return (f"ended at step {state.step} of {recipe.steps}: the last {worse} evaluations were no better (patience)",)


def charts(rows: list[dict[str, Any]]) -> tuple[Chart, ...]:
    """The numbers over the steps, from the rows of the metrics."""
    keys = [key for row in rows if row.get("evaluated") for key in row if key.startswith(VALIDATION)]
    losses = _points(rows, "loss"), _points(rows, f"{VALIDATION}loss")
    shares = tuple(
        Series(label=number_label(key.removeprefix(VALIDATION)), points=_points(rows, key))
        for key in dict.fromkeys(keys)
        if not key.endswith("loss")
    )
    names = ("training (random crops)", "validation")
    series = tuple(Series(label=name, points=points) for name, points in zip(names, losses) if points)
    return (
        Chart(title="Validation", series=shares, x_label="step", y_label="%"),
        Chart(
            title="Loss",
            series=series,
            x_label="step",
            note="In training with smoothing and weights, where there are any.",
        ),
    )


def _points(rows: list[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None)


def per_class(classes: tuple[str, ...], measured: Measured) -> Table:
    """Lowest recall first, classes without an image last."""
    order = np.argsort(np.where(np.isfinite(measured.recall), measured.recall, np.inf), kind="stable")
    columns: list[tuple[str, Any]] = [("recall in %", measured.recall), ("precision in %", measured.precision)]
    if measured.average_precision is not None:
        columns.append(("AP in %", measured.average_precision))
    rows = [
        [classes[number], str(int(measured.images[number])), *(_cell(values[number]) for _, values in columns)]
        for number in map(int, order)
    ]
    names = ["class", "images", *(name for name, _ in columns)]
    if measured.thresholds is not None:
        names.append("threshold")
        rows = [row + [f"{measured.thresholds[number]:.3f}"] for row, number in zip(rows, map(int, order))]
    return Table(title="Classes", columns=tuple(names), rows=tuple(map(tuple, rows)), note="Of the validation images.")


def _cell(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "-"
