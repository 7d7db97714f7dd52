"""How large the parts of the images are that crops are made from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import sample_rng

MOST = 2000
"""Images that boxes are drawn for: the shares are then right to about 1 %."""


class Enlargement(NamedTuple):
    """Crops of one size."""

    side: float
    """Median of the shorter side of what is cut out, in pixels."""
    share: float
    """Share of the crops that have to be enlarged."""


def enlargement(
    crops: MultiCrop, widths: Int64[np.ndarray, "n"], heights: Int64[np.ndarray, "n"], seed: int
) -> tuple[Enlargement, Enlargement | None]:
    """Of global and local crops of images with these sides in pixels; None for the latter where there are none."""
    chosen = np.linspace(0, len(widths) - 1, min(MOST, len(widths))).round().astype(int)
    sides = np.array(
        [
            [min(high, wide) for _, _, high, wide in crops.boxes(crops.draw(sample_rng(seed, place)), *size)]
            for place, size in enumerate(zip(heights[chosen].tolist(), widths[chosen].tolist()))
        ]
    )
    of_global = _enlargement(sides[:, :2], crops.global_size)
    return of_global, _enlargement(sides[:, 2:], crops.local_size) if crops.num_local else None


def _enlargement(sides: Int64[np.ndarray, "n V"], size: int) -> Enlargement:
    return Enlargement(float(np.median(sides)), float((sides < size).mean()))
