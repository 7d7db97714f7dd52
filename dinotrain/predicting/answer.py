"""The forms in which the classes of an image are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Float
from torch import Tensor

from dinotrain.data.arguments import share, whole

Form = Literal["probs", "ranked"]

FORMS: tuple[str, ...] = get_args(Form)
USUAL_TOP = 5
USUAL_THRESHOLD = 0.5
_DIGITS = 6


class Scored(NamedTuple):
    """A class and its probability."""

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """From probabilities to answers.

    Args:
        form: "probs" for `{"probs": [...], "labels": [...]}`, "ranked" for `[{"label": ..., "score": ...}, ...]`.
        top: most classes of an answer, the likeliest first; None for 5 of "ranked" and for all of "probs", which
            then stand in the order of the classifier.
        threshold: of classes that do not exclude each other, those are told that are at least so likely; None for
            the classifier's own thresholds, or 0.5. Not for classes that exclude each other.

    Raises:
        ValueError: for an argument out of its bounds.
    """

    form: Form = "probs"
    top: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: got {self.form!r}, expected one of {', '.join(FORMS)}")
        if self.top is not None:
            whole("top", self.top, 1)
        if self.threshold is not None:
            share("threshold", self.threshold)

    def scored(
        self, probabilities: Float[Tensor, "classes"], classes: Sequence[str], *, thresholds: Sequence[float] | None
    ) -> list[Scored]:
        """The classes that are told of one image.

        Args:
            thresholds: of each class, if they do not exclude each other (empty for 0.5); None if they do.
        """
        values = probabilities.tolist()
        told = range(len(values))
        if thresholds is not None:
            least = [self.threshold] * len(values) if self.threshold is not None else list(thresholds)
            least = least or [USUAL_THRESHOLD] * len(values)
            told = [index for index in told if values[index] >= least[index]]
        top = USUAL_TOP if self.top is None and self.form == "ranked" else self.top
        if top is not None:
            told = sorted(told, key=lambda index: -values[index])[:top]
        return [Scored(classes[index], _rounded(values[index])) for index in told]

    def shown(self, scored: Sequence[Scored]) -> Any:
        """As JSON."""
        if self.form == "ranked":
            return [each._asdict() for each in scored]
        return {"probs": [each.score for each in scored], "labels": [each.label for each in scored]}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
