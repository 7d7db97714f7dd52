"""What a method says of one micro-batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor


class Prototypes(NamedTuple):
    """What teacher and student say of the prototypes; detached."""

    targets: Float[Tensor, "R K"]
    student_scores: Float[Tensor, "R K"]
    """Scores of another view of the same image as the row of `targets`."""
    student_temperature: float


class Observed(NamedTuple):
    """What the health of a run is read from; all detached."""

    student_cls: Float[Tensor, "B D"]
    prototypes: Prototypes | None
    """None for a method without prototypes."""


class Outcome(NamedTuple):
    """What one micro-batch gives."""

    loss: Float[Tensor, ""]
    terms: Any
    """A named tuple of the loss terms, as they are optimised, before their weights; detached."""
    observed: Observed
