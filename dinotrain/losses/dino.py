"""The DINO loss on CLS tokens (DINO paper, equation 3; DINOv2 paper, section 4)."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from dinotrain.losses.cross_entropy import cross_entropy_rows


class DinoTerms(NamedTuple):
    """The two shares of the DINO loss; their sum is the mean cross-entropy over all pairs of different views."""

    local: Float[Tensor, ""]
    global_: Float[Tensor, ""]


def dino_loss(
    student_global: Float[Tensor, "V B K"],
    student_local: Float[Tensor, "L B K"],
    targets: Float[Tensor, "V B K"],
    temperature: float,
) -> DinoTerms:
    """Every student view against every teacher view except itself, averaged over these V * (V - 1 + L) pairs.

    The naive form::

        pairs = [(s, t) for s in range(V + L) for t in range(V) if s != t]
        loss = mean(cross_entropy(student[s], targets[t]).mean() for s, t in pairs)

    Cross-entropy is linear in the target, so the targets of a student view are summed first.
    """
    views = targets.shape[0]
    pairs = views * (views - 1 + student_local.shape[0])
    total = targets.sum(dim=0, keepdim=True)
    batch = max(targets.shape[1], 1)
    local = cross_entropy_rows(student_local, total.expand_as(student_local), temperature).sum()
    global_ = cross_entropy_rows(student_global, total - targets, temperature).sum()
    return DinoTerms(local / (batch * pairs), global_ / (batch * pairs))
