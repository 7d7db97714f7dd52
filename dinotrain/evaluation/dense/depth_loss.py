"""What a depth head is trained to make small."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_OFFSET = 1e-3
_SCALES = 4


def depth_loss(
    predicted: Float[Tensor, "B H W"], truth: Float[Tensor, "B H W"], max_depth: float, gradient_weight: float
) -> Float[Tensor, ""]:
    """Scale-invariant log loss plus the weighted gradient loss; 0 and what is beyond `max_depth` count as unknown."""
    known = (truth > 0) & (truth <= max_depth)
    difference = torch.where(known, (predicted + _OFFSET).log() - (truth + _OFFSET).log(), 0.0)
    loss = scale_invariant_loss(difference, known)
    return loss + gradient_weight * gradient_loss(difference, known) if gradient_weight else loss


def scale_invariant_loss(difference: Float[Tensor, "B H W"], known: Bool[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """sqrt(mean(g^2) - 0.85 mean(g)^2), with g the differences of logarithms where known (AdaBins, equation 3, with
    its lambda of 0.85, without the factor 10; after Eigen et al. 2014)."""
    count = known.sum().clamp(min=1)
    mean = difference.sum() / count
    # Of the deviations, not of the squares: both terms may be small differences of large numbers.
    variance = torch.where(known, difference - mean, 0.0).square().sum() / count
    return (variance + 0.15 * mean.square() + 1e-12).sqrt()


def gradient_loss(difference: Float[Tensor, "B H W"], known: Bool[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean absolute steps of the differences between neighbours, summed over four scales and both directions
    (MegaDepth, Li and Snavely 2018, equation 4)."""
    total = difference.new_zeros(())
    for scale in range(_SCALES):
        step = 2**scale
        g, k = difference[:, ::step, ::step], known[:, ::step, ::step]
        down = (g[:, 1:] - g[:, :-1]).abs() * (k[:, 1:] & k[:, :-1])
        right = (g[:, :, 1:] - g[:, :, :-1]).abs() * (k[:, :, 1:] & k[:, :, :-1])
        total = total + (down.sum() + right.sum()) / k.sum().clamp(min=1)
    return total
