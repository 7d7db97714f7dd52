"""Patch features on another grid: of another patch size or another resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resample(features: Float[Tensor, "B N D"], grid: tuple[int, int], to: tuple[int, int]) -> Float[Tensor, "B M D"]:
    """Features of a `grid` of (rows, columns) of patches, row-major, at the places of the patches of another grid.

    Both grids cover the same image, so that patch i of n lies at (i + 0.5) / n of a side (`align_corners=False`).
    Linear along each side, antialiased where a side gets fewer patches: all weights are positive and sum to 1. A cubic
    kernel would be sharper, but its negative weights surround every outlier with an echo of the opposite sign, and ViTs
    have outliers (Darcet et al. 2023, section 2): a student should not be taught what the teacher never said.

    Computed in float32 (float64 stays), returned in the type of `features`; the same tensor where the grids are equal.

    Raises:
        ValueError: if there are not as many features as `grid` has patches, or `to` has none.
    """
    if features.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"features: got {features.shape[1]} patches, expected {grid[0]}x{grid[1]}")
    if min(to) < 1:
        raise ValueError(f"to: got {to[0]}x{to[1]} patches, expected at least 1x1")
    if grid == to:
        return features
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    x = x.unflatten(1, grid).permute(0, 3, 1, 2)
    x = F.interpolate(x, size=to, mode="bilinear", align_corners=False, antialias=True)
    return x.flatten(2).transpose(1, 2).to(features.dtype)
