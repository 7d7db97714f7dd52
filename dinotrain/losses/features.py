"""Feature matching: cosine distance and smooth L1 between a student's and a teacher's features, row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHORTEST = 1e-3
"""Rows shorter than this count as having this length: it bounds the gradient of the cosine, at a zero row too, by what
fp16 can say. Features of a standardised teacher have lengths of about sqrt(D)."""


class FeatureTerms(NamedTuple):
    """The two terms before their weights; both are 0 where the features agree."""

    cosine: Float[Tensor, ""]
    smooth_l1: Float[Tensor, ""]


def feature_loss(student: Float[Tensor, "R D"], target: Float[Tensor, "R D"], *, beta: float) -> FeatureTerms:
    """Cosine distance and smooth L1 (Girshick 2015, Fast R-CNN, equation 3), in float32, within the process.

    The pair that AM-RADIO (Ranzinger et al. 2024) and Theia (Shang et al. 2024) match patch features with: the first
    term looks at directions alone, the second sets the lengths. `beta` is the difference, above 0, from which on smooth
    L1 is linear: the paper's has beta 1. The naive form::

        cosine = mean(1 - dot(s, t) / (norm(s) * norm(t)) for s, t in zip(student, target))
        smooth_l1 = mean(d * d / (2 * beta) if d < beta else d - beta / 2 for d in abs(student - target).flatten())

    A zero row has cosine distance 1 from anything. No rows give 0.
    """
    s, t = student.float(), target.float()
    lengths = [torch.linalg.vector_norm(x, dim=-1).clamp(min=SHORTEST) for x in (s, t)]
    similarity = (s * t).sum(dim=-1) / (lengths[0] * lengths[1])
    cosine = (1 - similarity).sum() / max(similarity.numel(), 1)
    smooth_l1 = F.smooth_l1_loss(s, t, reduction="sum", beta=beta) / max(s.numel(), 1)
    return FeatureTerms(cosine, smooth_l1)
