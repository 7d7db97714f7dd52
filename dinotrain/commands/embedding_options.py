"""The keys of configs/embed.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinotrain.commands.backbone_request import BackboneRequest, is_number, is_whole
from dinotrain.commands.config import near
from dinotrain.embedding.content import TOKENS, Token
from dinotrain.errors import UserError

DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(BackboneRequest):
    """What is extracted from what, and how; `configs/embed.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    out: str
    tokens: Sequence[Token] = ("cls",)
    layers: Sequence[int] = (1,)
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
        super().__post_init__()
        self._check_computing()
        for key in ("batch", "k"):
            self._whole(key, 1)
        self._one_of("again", (True, False))
        self._one_of("dtype", DTYPES)
        if not isinstance(self.out, str) or not self.out.strip() or "://" in self.out:
            raise UserError(f"out: got {self.out!r}, expected a file on a local or shared disk")
        if not _distinct(self.tokens) or not all(isinstance(token, str) for token in self.tokens):
            raise UserError(f"tokens: got {self.tokens!r}, expected a list of different ones of {', '.join(TOKENS)}")
        for token in self.tokens:
            if token not in TOKENS:
                raise UserError(f"tokens: got {token!r}; {near(str(token), TOKENS)}")
        if not _distinct(self.layers) or not all(is_whole(layer, 1) for layer in self.layers):
            raise UserError(f"layers: got {self.layers!r}, expected a list of different numbers, 1 for the last block")
        share = self.max_broken
        if not is_number(share) or not 0 <= share <= 1:
            raise UserError(f"max_broken: got {share!r}, expected a share in 0..1")
        if not isinstance(self.neighbours, list | tuple) or not all(isinstance(path, str) for path in self.neighbours):
            raise UserError(f"neighbours: got {self.neighbours!r}, expected image files")
        if self.neighbours and not {"cls", "mean"} & set(self.tokens):
            raise UserError("neighbours: are found by CLS or mean patch tokens; expected one in tokens")

    @property
    def path(self) -> Path:
        return Path(self.out).expanduser()


def _distinct(values: Any) -> bool:
    return isinstance(values, list | tuple) and 0 < len(values) == len(set(map(str, values)))
