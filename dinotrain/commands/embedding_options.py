"""The keys of configs/embed.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinotrain.commands.config import near
from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.embedding.content import TOKENS, Token
from dinotrain.errors import UserError

DTYPES = ("float32", "float16")
OF_EVALUATION = (
    *("weights", "part", "num_heads", "size", "crop_fraction", "mean", "std"),
    *("batch", "threads", "device", "precision", "again"),
)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest:
    """What is extracted from what, and how; `configs/embed.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    weights: str
    out: str
    part: str | None = None
    num_heads: int | None = None
    tokens: Sequence[Token] = ("cls",)
    layers: Sequence[int] = (1,)
    size: int | None = None
    crop_fraction: float | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    dtype: str = "float32"
    batch: int = 64
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    max_broken: float = 1.0
    again: bool = False
    neighbours: Sequence[str] = field(default_factory=tuple)
    k: int = 10

    def __post_init__(self) -> None:
        assert self.evaluation
        if not isinstance(self.out, str) or not self.out.strip() or "://" in self.out:
            raise UserError(f"out: got {self.out!r}, expected a file on a local or shared disk")
        if not _distinct(self.tokens) or not all(isinstance(token, str) for token in self.tokens):
            raise UserError(f"tokens: got {self.tokens!r}, expected a list of different ones of {', '.join(TOKENS)}")
        for token in self.tokens:
            if token not in TOKENS:
                raise UserError(f"tokens: got {token!r}; {near(str(token), TOKENS)}")
        if not _distinct(self.layers) or not all(_whole(layer) for layer in self.layers):
            raise UserError(f"layers: got {self.layers!r}, expected a list of different numbers, 1 for the last block")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: got {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        share = self.max_broken
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UserError(f"max_broken: got {share!r}, expected a share in 0..1")
        if not isinstance(self.neighbours, list | tuple) or not all(isinstance(path, str) for path in self.neighbours):
            raise UserError(f"neighbours: got {self.neighbours!r}, expected image files")
        if not _whole(self.k):
            raise UserError(f"k: got {self.k!r}, expected a whole number, at least 1")
        if self.neighbours and not {"cls", "mean"} & set(self.tokens):
            raise UserError("neighbours: are found by CLS or mean patch tokens; expected one in tokens")

    @property
    def path(self) -> Path:
        return Path(self.out).expanduser()

    @property
    def evaluation(self) -> EvaluationRequest:
        """What it has in common with an evaluation, checked as there."""
        return EvaluationRequest(task="all", **{key: getattr(self, key) for key in OF_EVALUATION})


def _distinct(values: Any) -> bool:
    return isinstance(values, list | tuple) and 0 < len(values) == len(set(map(str, values)))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
