"""The objective: cross-entropy of classes that exclude each other, or of each for itself."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.finetuning.views import LabelledBatch
from dinotrain.methods.outcome import Observed, Outcome


class SupervisedTerms(NamedTuple):
    """There is one loss, which is logged as such."""


class Supervised(nn.Module):
    """Cross-entropy per image, or binary cross-entropy summed over the classes; the mean over the images.

    Args:
        weights: single: of the loss of each class's images; multi: of the positive term of each class. None for 1.
        label_smoothing: single: share of the target that is spread evenly over all classes; multi: how far targets are
            moved from 0 and 1 to 0.5.
    """

    def __init__(self, *, multi: bool, weights: Float[Tensor, "C"] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {label_smoothing}, expected a share in [0, 1)")
        self.multi, self.label_smoothing = multi, label_smoothing
        # Told by the data; not part of what a checkpoint holds.
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def targets(self, teacher: nn.Module, batch: LabelledBatch, temperature: float) -> Tensor:
        """What the images show; nobody else is asked."""
        return batch.targets

    def compare(self, student: nn.Module, targets: Tensor, batch: LabelledBatch) -> Outcome:
        """The loss of the student on one micro-batch."""
        scores = student(batch.global_crops[0]).float()
        return Outcome(self.loss(scores, targets), SupervisedTerms(), Observed(scores.detach(), None))

    def loss(self, scores: Float[Tensor, "B C"], targets: Tensor) -> Float[Tensor, ""]:
        """Of scores before softmax or sigmoid."""
        if self.multi:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(scores, smooth, pos_weight=self.weights, reduction="none")
            return each.sum(dim=1).mean()
        each = F.cross_entropy(scores, targets, label_smoothing=self.label_smoothing, reduction="none")
        return (each if self.weights is None else each * self.weights[targets]).mean()

    def after_step(self) -> None:
        """Nothing moves with the steps."""
