"""The keys of configs/export.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinotrain.commands.backbone_request import BackboneRequest, is_number
from dinotrain.commands.config import near
from dinotrain.errors import UserError
from dinotrain.exporting.formats import FORMATS, WriteOptions
from dinotrain.exporting.subject import DTYPES

FILES = (".onnx", ".pt2", ".pth", ".pt", ".safetensors")
"""Endings of what other formats write."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest(BackboneRequest):
    """What is written how, and where; `configs/export.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    out: str
    format: str | Sequence[str] = "hf"
    head: bool = True
    dtype: str | None = None
    image_size: int | None = None
    chunks: int = 0
    opset: int = 18
    check: bool = True
    tolerance: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.out, str) or not self.out.strip() or "://" in self.out:
            raise UserError(f"out: got {self.out!r}, expected a file or folder on a local or shared disk")
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise UserError(f"format: got {self.format!r}, expected a name, or a list of different ones")
        for name in self.formats:
            if name not in FORMATS:
                raise UserError(f"format: got {name!r}; {near(name, FORMATS)}")
        if self.formats == ["hf"] and self.path.suffix in FILES:
            raise UserError(f"out: got {self.out}, but format=hf writes a folder; expected one, or another format")
        for key in ("head", "check", "force"):
            self._one_of(key, (True, False))
        self._one_of("dtype", (*DTYPES, None))
        for key, least in (("chunks", 0), ("opset", 1)):
            self._whole(key, least)
        self._whole("image_size", 1, optional=True)
        for key, name in (("chunks", "hub"), ("opset", "onnx")):
            if getattr(self, key) != getattr(WriteOptions(), key) and name not in self.formats:
                raise UserError(f"{key}: got {getattr(self, key)}, but it is for format={name} alone")
        limit = self.tolerance
        if limit is not None and not (is_number(limit) and limit > 0):
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
