"""Depth as the mean of bins, weighted by what a head says of each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dinotrain.evaluation.dense.head import upsampled

BINS = 256
MIN_DEPTH = 1e-3
"""Metres; less is neither predicted nor counted as known."""
UPSAMPLING = 4
_FLOOR = 0.1


def depth_of(logits: Float[Tensor, "B K h w"], max_depth: float) -> Float[Tensor, "B H W"]:
    """Metres at four times the resolution of the patch grid (DINOv2, arXiv:2304.07193, section 7.4).

    Bins lie evenly from 1 mm to `max_depth`; scores are relu(logit) + 0.1, divided by their sum (the linear
    normalisation of AdaBins, arXiv:2011.14141, section 3). The paper resizes features before the linear layer; since
    bilinear weights sum to 1, resizing what the layer says is the same, for a sixteenth of the work.
    """
    height, width = logits.shape[-2:]
    logits = upsampled(logits, (height * UPSAMPLING, width * UPSAMPLING))
    scores = logits.relu() + _FLOOR
    centres = torch.linspace(MIN_DEPTH, max_depth, logits.shape[1], device=logits.device, dtype=logits.dtype)
    return torch.einsum("bkhw,k->bhw", scores, centres) / scores.sum(dim=1)
