"""Self-distillation with masked-image modelling: DINO + iBOT + KoLeo (DINOv2 paper, section 4)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.losses.dino import dino_loss
from dinotrain.losses.ibot import ibot_loss
from dinotrain.losses.koleo import koleo_loss
from dinotrain.losses.targets import Center, sinkhorn_knopp
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.methods.outcome import Observed, Outcome, Prototypes
from dinotrain.models.networks import Networks, Scores


class Terms(NamedTuple):
    """Loss terms as they are optimised, before their weights; 0 where a term is off."""

    dino: Float[Tensor, ""]
    ibot: Float[Tensor, ""]
    koleo: Float[Tensor, ""]


class SelfDistillation(nn.Module):
    """The student learns to predict the teacher's prototypes for other views and for the patches it does not see.

    Holds the running centers; the networks are passed in, so that they can be sharded and saved on their own.

    Args:
        num_prototypes: of the DINO head and of the iBOT head (the same number where they share one).
        targets: how teacher scores become probabilities.
        center_mean: with centering, how patch rows are averaged over processes: "rows" alike (exact), or
            "processes" alike as the original does.
    """

    def __init__(
        self,
        *,
        num_prototypes: tuple[int, int],
        targets: Literal["sinkhorn", "centering"] = "sinkhorn",
        student_temperature: float = 0.1,
        dino_weight: float = 1.0,
        ibot_weight: float = 1.0,
        koleo_weight: float = 0.1,
        sinkhorn_iterations: int = 3,
        center_momentum: float = 0.9,
        center_mean: Literal["rows", "processes"] = "rows",
    ) -> None:
        super().__init__()
        _check(targets in ("sinkhorn", "centering"), "targets", targets, "sinkhorn or centering")
        _check(student_temperature > 0, "student_temperature", student_temperature, "a number above 0")
        _check(dino_weight >= 0, "dino_weight", dino_weight, "0 or more")
        _check(ibot_weight >= 0, "ibot_weight", ibot_weight, "0 or more")
        _check(koleo_weight >= 0, "koleo_weight", koleo_weight, "0 or more")
        _check(sinkhorn_iterations >= 1, "sinkhorn_iterations", sinkhorn_iterations, "at least 1")
        _check(0 <= center_momentum < 1, "center_momentum", center_momentum, "in [0, 1)")
        self.student_temperature, self.sinkhorn_iterations = student_temperature, sinkhorn_iterations
        self.dino_weight, self.ibot_weight, self.koleo_weight = dino_weight, ibot_weight, koleo_weight
        self.dino_center: Center | None = None
        self.ibot_center: Center | None = None
        if targets == "centering":
            self.dino_center = Center(num_prototypes[0], momentum=center_momentum)
            self.ibot_center = Center(num_prototypes[1], momentum=center_momentum, mean=center_mean)

    def forward(self, student: Networks, teacher: Networks, batch: Batch, teacher_temperature: float) -> Outcome:
        """The loss of one micro-batch."""
        return self.compare(student, self.targets(teacher, batch, teacher_temperature), batch)

    @torch.no_grad()
    def targets(self, teacher: Networks | FrozenTeacher, batch: Batch, temperature: float) -> Scores:
        """Teacher probabilities for the CLS token of each global crop and for the patches that iBOT compares."""
        tokens = teacher.backbone([batch.global_crops.flatten(0, 1)])[0]
        scores = teacher.scores(tokens.cls, self._compared(tokens.patches, batch))
        if self.dino_center is not None and self.ibot_center is not None:
            return Scores(self.dino_center(scores.cls, temperature), self.ibot_center(scores.patches, temperature))
        return Scores(*(sinkhorn_knopp(x, temperature, self.sinkhorn_iterations) for x in scores))

    def compare(self, student: Networks, targets: Scores, batch: Batch) -> Outcome:
        """The loss of the student on one micro-batch, whose targets are known."""
        views, images = batch.global_crops.shape[:2]
        crops, masks = [batch.global_crops.flatten(0, 1)], [self._masks(batch)]
        if batch.local_crops.shape[0]:
            crops.append(batch.local_crops.flatten(0, 1))
            masks.append(None)
        tokens = student.backbone(crops, masks)
        global_cls = tokens[0].cls
        cls = torch.cat([group.cls for group in tokens])
        scores = student.scores(cls, self._compared(tokens[0].patches, batch))
        by_view = scores.cls.unflatten(0, (-1, images))
        dino_targets = targets.cls.unflatten(0, (views, images))
        shares = dino_loss(by_view[:views], by_view[views:], dino_targets, self.student_temperature)
        dino = shares.local + shares.global_
        weights = self._weights(scores.patches, batch)
        ibot = ibot_loss(scores.patches, targets.patches, weights, views * images, self.student_temperature)
        zero = ibot.new_zeros(())
        koleo = sum((koleo_loss(view) for view in global_cls.chunk(views)), zero) if self.koleo_weight else zero
        loss = self.dino_weight * dino + self.ibot_weight * ibot + self.koleo_weight * koleo
        other_view = by_view[:views].flip(0).flatten(0, 1).detach()
        seen = Observed(
            global_cls[:images].detach().clone(), Prototypes(targets.cls, other_view, self.student_temperature)
        )
        return Outcome(loss, Terms(dino.detach(), ibot.detach(), koleo.detach()), seen)

    def _masks(self, batch: Batch) -> Bool[Tensor, "I N"] | None:
        """Which patches of the global crops the student does not see."""
        return batch.masks.flatten(0, 1) if self.ibot_weight else None

    def _compared(self, patches: Float[Tensor, "I N D"], batch: Batch) -> Float[Tensor, "M D"]:
        """The patch tokens that iBOT compares: the masked ones."""
        indices = batch.mask_indices if self.ibot_weight else batch.mask_indices[:0]
        return patches.flatten(0, 1).index_select(0, indices)

    def _weights(self, scores: Float[Tensor, "M K"], batch: Batch) -> Float[Tensor, "M"]:
        """1 / (patches compared in its image), for each of them."""
        return batch.mask_weights[: len(scores)]

    def after_step(self) -> None:
        """Update what moves once per step; all processes together."""
        for center in (self.dino_center, self.ibot_center):
            if center is not None:
                center.update()


def _check(right: bool, name: str, got: object, expected: str) -> None:
    if not right:
        raise ValueError(f"{name}: got {got}, expected {expected}")
