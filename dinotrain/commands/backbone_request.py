"""The keys that all commands have in common which ask a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinotrain.errors import UserError
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights


@dataclass(frozen=True, kw_only=True)
class BackboneRequest:
    """Which weights, and how images enter the network; `configs/evaluate.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    weights: str
    part: str | None = None
    num_heads: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    crop_fraction: float | None = None

    def __post_init__(self) -> None:
        self._text("weights", optional=False)
        self._one_of("part", (None, "teacher", "ema", "student"))
        for key in ("num_heads", "size"):
            self._whole(key, 1, optional=True)
        crop = self.crop_fraction
        if crop is not None and (not is_number(crop) or not 0 < crop <= 1):
            raise UserError(f"crop_fraction: got {self.crop_fraction!r}, expected a share in (0, 1]")
        for key in ("mean", "std"):
            got = getattr(self, key)
            three = isinstance(got, list | tuple) and len(got) == 3 and all(map(is_number, got))
            if got is not None and not (three and (key == "mean" or min(got) > 0)):
                raise UserError(f"{key}: got {got!r}, expected three numbers, of images in 0..1")

    def read_weights(self) -> Weights:
        """The backbone that is asked for.

        Raises:
            UserError: if it can't be read.
        """
        try:
            return read_weights(self.weights, part=self.part, num_heads=self.num_heads).without_heads()
        except UserError as error:
            raise UserError(f"weights: {error}") from error

    def _check_computing(self) -> None:
        """The keys device, precision and threads of those that have them."""
        self._one_of("device", ("auto", "cpu", "cuda"))
        self._one_of("precision", ("auto", "fp16", "bf16", "fp32"))
        self._whole("threads", 1, optional=True)

    def _check_place(self) -> None:
        """The keys name and output_dir of those that have them."""
        name = getattr(self, "name", None)
        for key in ("name", "output_dir"):
            self._text(key, optional=True)
        if name is not None and (Path(name).name != name or name == ".."):
            raise UserError(f"name: got {name!r}, expected the name of a folder, without slashes")

    def _text(self, key: str, *, optional: bool) -> None:
        got = getattr(self, key)
        if not (optional and got is None) and (not isinstance(got, str) or not got.strip()):
            raise UserError(f"{key}: got {got!r}, expected text")

    def _whole(self, key: str, least: int, *, optional: bool = False) -> None:
        got = getattr(self, key)
        if not (optional and got is None) and not is_whole(got, least):
            raise UserError(f"{key}: got {got!r}, expected a whole number, at least {least}")

    def _one_of(self, key: str, known: Sequence[Any]) -> None:
        got = getattr(self, key)
        if not any(got is value or (isinstance(got, str) and got == value) for value in known):
            names = ["null" if value is None else str(value).lower() for value in known]
            expected = " or ".join(names) if len(names) == 2 else f"one of {', '.join(names)}"
            raise UserError(f"{key}: got {got!r}, expected {expected}")


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number, at least this."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
