"""The keys of configs/visualize.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.errors import UserError
from dinotrain.visualizing.colors import Foreground

OF_EVALUATION = ("weights", "part", "num_heads", "size", "mean", "std", "batch", "threads", "device", "precision")


@dataclass(frozen=True, kw_only=True)
class VisualizationRequest:
    """What is shown of what, and how; `configs/visualize.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    weights: str
    out: str
    part: str | None = None
    num_heads: int | None = None
    limit: int = 12
    size: int | None = None
    square: bool = False
    foreground: bool | str = False
    patch: Sequence[int] | None = None
    bank: str | None = None
    k: int = 5
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    batch: int = 64
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        assert self.evaluation
        for key in ("out", "bank"):
            got = getattr(self, key)
            if (got is not None or key == "out") and (not isinstance(got, str) or not got.strip()):
                raise UserError(f"{key}: got {got!r}, expected a path")
        for key, least in (("limit", 1), ("k", 0)):
            if not _whole(getattr(self, key), least):
                raise UserError(f"{key}: got {getattr(self, key)!r}, expected a whole number, at least {least}")
        if not isinstance(self.square, bool):
            raise UserError(f"square: got {self.square!r}, expected true or false")
        if not isinstance(self.foreground, bool) and self.foreground != "other":
            raise UserError(f"foreground: got {self.foreground!r}, expected true, false or other")
        patch = self.patch
        pair = isinstance(patch, list | tuple) and len(patch) == 2 and all(_whole(number, 0) for number in patch)
        if patch is not None and not pair:
            raise UserError(f"patch: got {patch!r}, expected [image, patch], both counted from 0")

    @property
    def folder(self) -> Path:
        return Path(self.out).expanduser()

    @property
    def shown(self) -> Foreground:
        """Which patches have colours."""
        return "other" if isinstance(self.foreground, str) else "foreground" if self.foreground else "all"

    @property
    def evaluation(self) -> EvaluationRequest:
        """What it has in common with an evaluation, checked as there."""
        return EvaluationRequest(task="all", **{key: getattr(self, key) for key in OF_EVALUATION})


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
