"""The heads of a sweep as a matrix, and in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from dinotrain.evaluation.linear.sweep import LinearSweep, Trained
from dinotrain.evaluation.outcome import Matrix


def grid(sweep: LinearSweep, trained: Trained, scores: Float[np.ndarray, "heads"], title: str, chosen: int) -> Matrix:
    """Scores in percent: a row for each input, a column for each learning rate."""
    words = head_words(sweep, trained, chosen)
    picked = f"{words['input']}, learning rate {words['learning_rate']:g}"
    which, rate = divmod(chosen, len(sweep.learning_rates))
    return Matrix(
        title=title,
        note=f"Of every linear classifier, by what it sees and its learning rate. Chosen (outlined): {picked}.",
        rows=tuple(each.name for each in trained.heads.inputs),
        columns=tuple(f"{rate:g}" for rate in sweep.learning_rates),
        values=tuple(map(tuple, scores.reshape(-1, len(sweep.learning_rates)).tolist())),
        unit="%",
        marked=(which, rate),
    )


def head_words(sweep: LinearSweep, trained: Trained, number: int) -> dict[str, Any]:
    """What a head is, for a protocol."""
    which, rate = divmod(number, len(sweep.learning_rates))
    return {"input": trained.heads.inputs[which].name, "learning_rate": sweep.learning_rates[rate]}
