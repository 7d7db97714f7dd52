"""The iBOT loss on masked patch tokens (iBOT paper, equation 2; DINOv2 paper, section 4)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dinotrain.losses.cross_entropy import cross_entropy_rows


def ibot_loss(
    student: Float[Tensor, "M K"],
    targets: Float[Tensor, "M K"],
    weights: Float[Tensor, "M"],
    num_images: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean over images of the mean cross-entropy over each image's masked patches.

    `weights` holds 1 / (masked patches of its image) for every row; `num_images` counts all crops, also those without
    any mask, which add 0. The naive form::

        loss = sum(mean(cross_entropy(student[m], targets[m]) for m in masked(image)) for image in images) / num_images
    """
    return (cross_entropy_rows(student, targets, temperature) * weights).sum() / num_images
