"""Patch tokens in few bytes, for a page that compares them."""

from __future__ import annotations

import base64
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MOST_BYTES = 6_000_000
_TRIED = 64


class Compact(NamedTuple):
    """Tokens whose cosine similarities are those of the originals, nearly."""

    text: str
    """Base64 of int8 [T, channels]."""
    channels: int
    error: float
    """The largest difference of a similarity, of those that were tried."""


def compact(tokens: Float[Tensor, "T D"], most_bytes: int = MOST_BYTES) -> Compact:
    """Each token scaled to whole numbers up to 127; where that is too much, in fewer dimensions.

    The dimensions are those that keep most of the inner products: the first singular vectors of the tokens.
    """
    unit = F.normalize(tokens.float(), dim=1)
    channels = max(min(unit.shape[1], most_bytes // len(unit)), 1)
    x = unit
    if channels < unit.shape[1]:
        directions = torch.linalg.eigh(unit.double().T @ unit.double())[1].flip(1)[:, :channels]
        x = unit @ directions.float()
    levels = (x / x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) * 127).round()
    back = F.normalize(levels, dim=1)
    rows = torch.linspace(0, len(unit) - 1, min(_TRIED, len(unit))).round().long()
    error = float((back[rows] @ back.T - unit[rows] @ unit.T).abs().max())
    text = base64.b64encode(levels.numpy().astype(np.int8).tobytes()).decode()
    return Compact(text, channels, error)
