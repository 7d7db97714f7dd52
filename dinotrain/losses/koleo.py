"""The Kozachenko-Leonenko regularizer: spreads features evenly (Sablayrolles et al. 2019; DINOv2 paper, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8


def koleo_loss(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """-mean log(distance of each L2-normalised row to its nearest other row + 1e-8), in float32, within the process.

    The naive form::

        loss = -mean(log(min(norm(x[i] - x[j]) for j != i) + 1e-8) for i in range(B))

    Fewer than 2 rows have no neighbours: the loss is then 0. Gradients reach the row and its neighbour. Duplicates give
    a large finite loss.
    """
    if features.shape[0] < 2:
        return features.float().sum() * 0.0
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), dim=-1, eps=EPSILON)
        with torch.no_grad():
            similarity = x @ x.T
            nearest = similarity.fill_diagonal_(-1.0).argmax(dim=1)
        # The epsilon within the norm keeps the gradient of a zero difference finite.
        distance = torch.linalg.vector_norm(x - x[nearest] + EPSILON, dim=-1)
        return -(distance + EPSILON).log().mean()
