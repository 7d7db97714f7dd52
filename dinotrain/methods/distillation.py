"""Distillation of a frozen teacher, by its prototypes, into a smaller student (DINOv2 paper, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dinotrain.data.batch import Batch
from dinotrain.methods.self_distillation import SelfDistillation


class Distillation(SelfDistillation):
    """The losses of self-distillation against a frozen teacher, without masks: iBOT compares all patch tokens of the
    global crops.

    The moving average of the student is kept aside; it is the result, and teaches nobody. Teacher and student have the
    same prototypes and the same patch grid.
    """

    def _masks(self, batch: Batch) -> None:
        return None

    def _compared(self, patches: Float[Tensor, "I N D"], batch: Batch) -> Float[Tensor, "M D"]:
        return patches.flatten(0, 1) if self.ibot_weight else patches.flatten(0, 1)[:0]

    def _weights(self, scores: Float[Tensor, "M K"], batch: Batch) -> Float[Tensor, "M"]:
        images = batch.global_crops.shape[0] * batch.global_crops.shape[1]
        return torch.full((len(scores),), images / max(len(scores), 1), device=scores.device)
