"""What crosses from the input pipeline to the training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Skipped(NamedTuple):
    """A sample that could not be read and was replaced by another one."""

    name: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one process, on its device, augmented and normalised.

    Views are the leading axis, so that `flatten(0, 1)` gives the view-major order the losses expect.
    """

    global_crops: Float[Tensor, "V B C H W"]
    local_crops: Float[Tensor, "L B C h w"]
    """May hold L = 0 views."""
    masks: Bool[Tensor, "V B N"]
    """True where the student does not see a patch of a global crop."""
    mask_indices: Int[Tensor, "M"]
    """Positions of the masked patches in `masks.flatten()`, ascending."""
    mask_weights: Float[Tensor, "M"]
    """1 / (number of masked patches of that crop): a mean per crop when summed."""
    names: tuple[str, ...]
    """Sample names, for reports about a bad batch."""
    skipped: tuple[Skipped, ...] = ()
