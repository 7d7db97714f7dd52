"""Cross-entropy between teacher probabilities and student scores, row by row."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cross_entropy_rows(
    logits: Float[Tensor, "*R K"], targets: Float[Tensor, "*R K"], temperature: float
) -> Float[Tensor, "*R"]:
    """-sum_k targets_k * log softmax(logits / temperature)_k, in float32.

    The rows of `targets` need not sum to 1: a sum of several targets gives the sum of their cross-entropies at the cost
    of one.
    """
    scores = logits.float() / temperature
    return targets.sum(dim=-1) * torch.logsumexp(scores, dim=-1) - (targets * scores).sum(dim=-1)
