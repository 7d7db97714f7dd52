"""What a file of features holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Token = Literal["cls", "mean", "patches"]
TOKENS: tuple[Token, ...] = get_args(Token)


@dataclass(frozen=True)
class Column:
    """One array with a row per image."""

    token: Token
    """The CLS token, the mean of all patch tokens, or all of these, row-major."""
    layer: int
    """The block whose output it is, through the final norm; 1 for the last, 2 for the one before."""
    shape: tuple[int, ...]
    """Of a row: channels, or patches and channels."""

    @property
    def name(self) -> str:
        return f"{self.token}_{self.layer}"

    @property
    def pooled(self) -> bool:
        """Whether an image has one vector."""
        return self.token != "patches"

    @property
    def numbers(self) -> int:
        """In a row."""
        return math.prod(self.shape)


def columns_of(tokens: Sequence[Token], layers: Sequence[int], *, dim: int, patches: int) -> tuple[Column, ...]:
    """The columns of these tokens and layers: all tokens of the first layer named, then those of the next."""
    shapes = {"cls": (dim,), "mean": (dim,), "patches": (patches, dim)}
    return tuple(Column(token, layer, shapes[token]) for layer in layers for token in tokens)
