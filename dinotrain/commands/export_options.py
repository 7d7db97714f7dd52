"""The keys of configs/export.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.commands.config import near
from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.errors import UserError
from dinotrain.exporting.formats import FORMATS, WriteOptions
from dinotrain.exporting.subject import DTYPES

OF_EVALUATION = ("weights", "part", "num_heads", "size", "crop_fraction", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is written how, and where; `configs/export.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    weights: str
    out: str
    format: str | Sequence[str] = "hf"
    part: str | None = None
    num_heads: int | None = None
    head: bool = True
    dtype: str | None = None
    image_size: int | None = None
    size: int | None = None
    crop_fraction: float | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    chunks: int = 0
    opset: int = 18
    check: bool = True
    tolerance: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        assert self.evaluation
        if not isinstance(self.out, str) or not self.out.strip() or "://" in self.out:
            raise UserError(f"out: got {self.out!r}, expected a file or folder on a local or shared disk")
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise UserError(f"format: got {self.format!r}, expected a name, or a list of different ones")
        for name in self.formats:
            if name not in FORMATS:
                raise UserError(f"format: got {name!r}; {near(name, FORMATS)}")
        for key in ("head", "check", "force"):
            if not isinstance(getattr(self, key), bool):
                raise UserError(f"{key}: got {getattr(self, key)!r}, expected true or false")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UserError(f"dtype: got {self.dtype!r}, expected one of {', '.join(DTYPES)}, or null")
        for key, least in (("chunks", 0), ("opset", 1), ("image_size", 1)):
            got = getattr(self, key)
            if (got is None) > (key == "image_size") or (got is not None and not _whole(got, least)):
                raise UserError(f"{key}: got {got!r}, expected a whole number, at least {least}")
        for key, name in (("chunks", "hub"), ("opset", "onnx")):
            if getattr(self, key) != getattr(WriteOptions(), key) and name not in self.formats:
                raise UserError(f"{key}: got {getattr(self, key)}, but it is for format={name} alone")
        limit = self.tolerance
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise UserError(f"tolerance: got {limit!r}, expected a number above 0, or null")

    @property
    def formats(self) -> list[str]:
        """Their names."""
        names = self.format if isinstance(self.format, list | tuple) else [self.format]
        return [str(name) for name in names]

    @property
    def path(self) -> Path:
        """Where it goes."""
        try:
            return Path(self.out).expanduser()
        except RuntimeError as error:
            raise UserError(f"out: got {self.out}, expected a user that exists") from error

    @property
    def options(self) -> WriteOptions:
        """What some formats take."""
        return WriteOptions(chunks=self.chunks, opset=self.opset)

    @property
    def evaluation(self) -> EvaluationRequest:
        """What it has in common with an evaluation, checked as there."""
        return EvaluationRequest(task="all", **{key: getattr(self, key) for key in OF_EVALUATION})


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
