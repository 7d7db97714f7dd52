"""The keys of configs/predict.yaml as an object."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from dinotrain.data.arguments import whole
from dinotrain.predicting.answer import Answers, Form
from dinotrain.predicting.output import FORMATS

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp16", "bf16", "fp32")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How images are asked about, and how answers are written; `configs/predict.yaml` says what each key is for.

    Raises:
        ValueError: with the key, what was got, and what is expected.
    """

    format: str | None = None
    form: str | None = None
    top: int | None = None
    threshold: float | None = None
    batch: int = 32
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        choices = {"format": (None, *FORMATS), "device": DEVICES, "precision": PRECISIONS}
        for key, known in choices.items():
            if (got := getattr(self, key)) not in known:
                raise ValueError(
                    f"{key}: got {got!r}, expected one of {', '.join(str(name or 'null') for name in known)}"
                )
        whole("batch", self.batch, 1)
        if self.threads is not None:
            whole("threads", self.threads, 1, 1024)
        if self.chosen_format == "table" and self.form not in (None, "ranked"):
            raise ValueError(f"form: got {self.form!r}, expected format=jsonl or format=csv with it; a table is ranked")
        _ = self.answers

    @property
    def chosen_format(self) -> str:
        """As typed; else a table for people, and lines for programs."""
        return self.format or ("table" if sys.stdout.isatty() else "jsonl")

    @property
    def answers(self) -> Answers:
        """The form of the answers."""
        form: Form = self.form or "ranked"  # pyright: ignore[reportAssignmentType]
        return Answers(form=form, top=self.top, threshold=self.threshold)
