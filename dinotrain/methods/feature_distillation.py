"""Distillation by features: for teachers that come without heads.

The CLS token and the patch tokens of each global crop are projected to the teacher's width, and matched with what the
teacher makes of the same crop.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.losses.features import feature_loss
from dinotrain.losses.standardize import Standardize
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.methods.outcome import Observed, Outcome
from dinotrain.models.grid import resample
from dinotrain.models.networks import FeatureNetworks


class FeatureTargets(NamedTuple):
    """Standardised features of the teacher; images view-major."""

    cls: Float[Tensor, "I D"]
    patches: Float[Tensor, "I N D"]
    """On the teacher's own patch grid."""


class FeatureDistillationTerms(NamedTuple):
    """Loss terms as they are optimised, before their weights."""

    cls_cosine: Float[Tensor, ""]
    cls_smooth_l1: Float[Tensor, ""]
    patch_cosine: Float[Tensor, ""]
    patch_smooth_l1: Float[Tensor, ""]


class FeatureDistillation(nn.Module):
    """The student learns to predict the teacher's features, standardised per channel with running statistics.

    Teacher and student may differ in width, patch size and resolution: the teacher's patch features are resampled to
    the student's grid.

    Args:
        dim: width of the teacher's tokens.
        cls_weight, patch_weight: of the two kinds of tokens; 0 leaves one out.
        cosine_weight, smooth_l1_weight: of the two distances, for both kinds.
        smooth_l1_beta: difference, in standard deviations, from which smooth L1 is linear.
        statistics_momentum: of the running mean and variance of the teacher's features.
    """

    def __init__(
        self,
        *,
        dim: int,
        cls_weight: float = 1.0,
        patch_weight: float = 1.0,
        cosine_weight: float = 1.0,
        smooth_l1_weight: float = 1.0,
        smooth_l1_beta: float = 1.0,
        statistics_momentum: float = 0.99,
    ) -> None:
        super().__init__()
        weights = {"cls_weight": cls_weight, "patch_weight": patch_weight}
        weights |= {"cosine_weight": cosine_weight, "smooth_l1_weight": smooth_l1_weight}
        for name, weight in weights.items():
            _check(weight >= 0, name, weight, "0 or more")
        _check(cls_weight + patch_weight > 0, "cls_weight", cls_weight, "above 0 where patch_weight is 0")
        _check(cosine_weight + smooth_l1_weight > 0, "cosine_weight", cosine_weight, "above 0 with smooth_l1_weight 0")
        _check(smooth_l1_beta > 0, "smooth_l1_beta", smooth_l1_beta, "a number above 0")
        _check(0 <= statistics_momentum < 1, "statistics_momentum", statistics_momentum, "in [0, 1)")
        self.cls_weight, self.patch_weight = cls_weight, patch_weight
        self.cosine_weight, self.smooth_l1_weight, self.beta = cosine_weight, smooth_l1_weight, smooth_l1_beta
        self.cls_statistics = Standardize(dim, momentum=statistics_momentum)
        self.patch_statistics = Standardize(dim, momentum=statistics_momentum)

    @torch.no_grad()
    def targets(self, teacher: FrozenTeacher, batch: Batch, temperature: float) -> FeatureTargets:
        """What the teacher makes of the global crops; there are no prototypes, and so no temperature."""
        tokens = teacher.backbone([batch.global_crops.flatten(0, 1)])[0]
        patches = self.patch_statistics(tokens.patches.flatten(0, 1))
        return FeatureTargets(self.cls_statistics(tokens.cls), patches.unflatten(0, tokens.patches.shape[:2]))

    def compare(self, student: FeatureNetworks, targets: FeatureTargets, batch: Batch) -> Outcome:
        """The loss of the student on one micro-batch, whose targets are known."""
        tokens = student.backbone([batch.global_crops.flatten(0, 1)])[0]
        cls = student.cls_projection(tokens.cls)
        patches = student.patch_projection(tokens.patches.flatten(0, 1))
        wanted = resample(targets.patches, _square(targets.patches), _square(tokens.patches)).flatten(0, 1)
        terms = FeatureDistillationTerms(
            *feature_loss(cls, targets.cls, beta=self.beta), *feature_loss(patches, wanted, beta=self.beta)
        )
        loss = self.cls_weight * self._distance(terms.cls_cosine, terms.cls_smooth_l1)
        loss = loss + self.patch_weight * self._distance(terms.patch_cosine, terms.patch_smooth_l1)
        seen = Observed(tokens.cls[: batch.global_crops.shape[1]].detach().clone(), None)
        return Outcome(loss, FeatureDistillationTerms(*(term.detach() for term in terms)), seen)

    def _distance(self, cosine: Float[Tensor, ""], smooth_l1: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self.cosine_weight * cosine + self.smooth_l1_weight * smooth_l1

    def after_step(self) -> None:
        """Update the statistics; once per step, all processes together."""
        self.cls_statistics.update()
        self.patch_statistics.update()


def _square(patches: Float[Tensor, "I N D"]) -> tuple[int, int]:
    """The grid of the patches of a square crop."""
    side = math.isqrt(patches.shape[1])
    assert side * side == patches.shape[1]
    return side, side


def _check(right: bool, name: str, got: object, expected: str) -> None:
    if not right:
        raise ValueError(f"{name}: got {got}, expected {expected}")
