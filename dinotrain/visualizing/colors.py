"""Patch tokens of several images as colours: the same colour, the same meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dinotrain.evaluation.pictures import component_colors, components
from dinotrain.visualizing.seen import Seen

Foreground = Literal["all", "foreground", "other"]
FEWEST = 4
"""Patches that have principal components worth showing."""
BINS = 256


class Colored(NamedTuple):
    """The colours of an image's patches."""

    colors: Float[Tensor, "h w 3"]
    shown: Bool[Tensor, "h w"]
    """False for what counts as background."""


def joint_colors(images: Sequence[Seen], show: Foreground = "all") -> list[Colored]:
    """The first three principal components over the patches of all images (DINOv2 paper, section 7.5).

    For the foreground, the first component is thresholded, and components are those of the patches on one side alone:
    the side that has less of the images' borders, or the other one.
    """
    tokens = torch.cat([seen.patches for seen in images])
    shown = torch.ones(len(tokens), dtype=torch.bool)
    if show != "all":
        border = torch.cat([_border(*seen.grid).flatten() for seen in images])
        found = foreground(components(tokens, 1)[:, 0], border)
        found = ~found if show == "other" else found
        shown = found if found.sum() >= FEWEST else shown
    colors = torch.zeros(len(tokens), 3)
    colors[shown] = component_colors(tokens[shown])
    counts = [seen.count for seen in images]
    return [
        Colored(color.unflatten(0, seen.grid), part.unflatten(0, seen.grid))
        for seen, color, part in zip(images, colors.split(counts), shown.split(counts))
    ]


def foreground(scores: Float[Tensor, "T"], border: Bool[Tensor, "T"]) -> Bool[Tensor, "T"]:
    """Which patches are on the side of the threshold that has less of the borders."""
    high = scores > otsu(scores)
    inside = ~border
    if not inside.any() or not border.any():
        return high
    return ~high if high[border].float().mean() > high[inside].float().mean() else high


def otsu(values: Float[Tensor, "T"]) -> float:
    """The threshold that leaves the least variance within both sides (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return high
    counts = torch.histc(values.double(), BINS, low, high)
    centers = torch.linspace(low, high, BINS + 1, dtype=torch.float64)[:-1] + (high - low) / BINS / 2
    below, total = counts.cumsum(0), counts.sum()
    first = (counts * centers).cumsum(0)
    mean_below, mean_above = first / below.clamp(min=1), (first[-1] - first) / (total - below).clamp(min=1)
    between = below * (total - below) * (mean_below - mean_above) ** 2
    return float(centers[int(between.argmax())] + (high - low) / BINS / 2)


def _border(rows: int, columns: int) -> Tensor:
    border = torch.zeros(rows, columns, dtype=torch.bool)
    border[[0, -1]] = True
    border[:, [0, -1]] = True
    return border
