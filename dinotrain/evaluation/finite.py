"""Features as all tasks compute with them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def finite(features: Float[Tensor, "n D"], device: torch.device) -> Float[Tensor, "n D"]:
    """In float32 on a device; what is not finite counts as zero, so that one image can't spoil the rest."""
    return features.to(device).float().nan_to_num(0.0, 0.0, 0.0)
