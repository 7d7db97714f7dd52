"""Learned position embeddings and how they are resized to another patch grid."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Resize = Literal["scale", "size"]
"""How a position table meets another grid; weights trained with one are slightly off with the other.

"scale": by the factor (target + 0.1) / source, which sets the sampling coordinates, without antialias (DINO, DINOv2).
"size": to the target size, with antialias (DINOv2 with registers).
"""

SCALE_OFFSET = 0.1


def positions_for(table: Float[Tensor, "1 P D"], height: int, width: int, resize: Resize) -> Float[Tensor, "1 Q D"]:
    """The table (CLS first, then a square grid) for a grid of height x width patches; always computed in float32."""
    side = math.isqrt(table.shape[1] - 1)
    if height == side and width == side:
        return table
    cls, grid = table[:, :1], table[:, 1:].float()
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if resize == "scale":
        factor = ((height + SCALE_OFFSET) / side, (width + SCALE_OFFSET) / side)
        grid = F.interpolate(grid, scale_factor=factor, mode="bicubic")
    else:
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", antialias=True)
    assert grid.shape[-2:] == (height, width)
    return torch.cat([cls, grid.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)
