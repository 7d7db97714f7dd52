"""Prototype distillation against loops over images, views and patches."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny
import torch
from reference import assert_near
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.methods.distillation import Distillation
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.methods.outcome import Outcome
from dinotrain.models.head import Head
from dinotrain.models.networks import Networks

TEACHER_DIM = 24
TEMPERATURE, STUDENT_TEMPERATURE = 0.05, 0.1
NORMAL = ([0.0] * 3, [1.0] * 3)
WEIGHTS = {"dino_weight": 0.5, "ibot_weight": 2.0, "koleo_weight": 0.3}


def frozen(*, shared: bool = False) -> FrozenTeacher:
    """A teacher that is wider than its student."""
    head = {"in_dim": TEACHER_DIM, "hidden_dim": 20, "bottleneck_dim": 10, "init_std": 0.3}
    networks = Networks(
        backbone=tiny.backbone(embed_dim=TEACHER_DIM, depth=3, num_heads=3, init_std=0.3, position_std=0.3),
        dino_head=Head(**head, num_prototypes=tiny.PROTOTYPES),
        ibot_head=None if shared else Head(**head, num_prototypes=tiny.PATCH_PROTOTYPES),
    )
    networks.initialize(7)
    return FrozenTeacher(networks.requires_grad_(False).eval(), size=None, seen=NORMAL)


def method(*, shared: bool = False, **changes: Any) -> Distillation:
    k = (tiny.PROTOTYPES, tiny.PROTOTYPES if shared else tiny.PATCH_PROTOTYPES)
    return Distillation(**{"num_prototypes": k, "student_temperature": STUDENT_TEMPERATURE, **changes})


def bare(batch: Batch) -> Batch:
    """The same images with nothing masked."""
    return tiny.from_crops(batch.global_crops, batch.local_crops, torch.zeros_like(batch.masks))


class Naive:
    """One network, one image at a time."""

    def __init__(self, networks: nn.Module) -> None:
        assert isinstance(networks, Networks)
        self.backbone, self.dino_head = networks.backbone, networks.dino_head
        self.ibot_head = networks.dino_head if networks.ibot_head is None else networks.ibot_head

    def cls(self, crop: Tensor) -> Tensor:
        return self.backbone([crop[None]])[0].cls[0]

    def cls_scores(self, crop: Tensor) -> Tensor:
        return self.dino_head(self.cls(crop)[None])[0]

    def patch_scores(self, crop: Tensor) -> list[Tensor]:
        return [self.ibot_head(token[None])[0] for token in self.backbone([crop[None]])[0].patches[0]]


def cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
    return -(target * (scores / STUDENT_TEMPERATURE).log_softmax(dim=0)).sum()


def sinkhorn(rows: list[Tensor]) -> list[Tensor]:
    """SwAV, appendix A.1: three times prototypes, then rows."""
    q = [(row.double() / TEMPERATURE).exp() for row in rows]
    for _ in range(3):
        totals = [sum(float(row[k]) for row in q) for k in range(len(rows[0]))]
        q = [torch.stack([row[k] / totals[k] / len(totals) for k in range(len(totals))]) for row in q]
        q = [row / sum(float(value) for value in row) / len(q) for row in q]
    return [(row * len(q)).float() for row in q]


def centered(rows: list[Tensor], center: Tensor) -> list[Tensor]:
    return [((row - center) / TEMPERATURE).softmax(dim=0) for row in rows]


def naive_targets(teacher: Naive, batch: Batch, centers: list[Tensor] | None) -> tuple[list, list, list[list[Tensor]]]:
    """Targets of (view, image) and of (view, image, patch), in this order, and the scores they were made from."""
    crops = [crop for view in batch.global_crops for crop in view]
    cls = [teacher.cls_scores(crop) for crop in crops]
    patches = [row for crop in crops for row in teacher.patch_scores(crop)]
    if centers is None:
        return sinkhorn(cls), sinkhorn(patches), [cls, patches]
    return centered(cls, centers[0]), centered(patches, centers[1]), [cls, patches]


def naive_dino(student: Naive, batch: Batch, targets: list[Tensor]) -> Tensor:
    views, images = batch.global_crops.shape[:2]
    crops = [*batch.global_crops, *batch.local_crops]
    pairs = []
    for s, t in itertools.product(range(len(crops)), range(views)):
        if s != t:
            losses = [cross_entropy(targets[t * images + i], student.cls_scores(crops[s][i])) for i in range(images)]
            pairs.append(torch.stack(losses).mean())
    return torch.stack(pairs).mean()


def naive_ibot(student: Naive, batch: Batch, targets: list[Tensor]) -> Tensor:
    per_image, remaining = [], iter(targets)
    for crop in batch.global_crops.flatten(0, 1):
        losses = [cross_entropy(next(remaining), scores) for scores in student.patch_scores(crop)]
        per_image.append(torch.stack(losses).mean())
    return torch.stack(per_image).mean()


def naive_koleo(student: Naive, batch: Batch) -> Tensor:
    """Each view on its own, added up."""
    total = torch.zeros(())
    for view in batch.global_crops:
        x = [cls / cls.norm() for cls in (student.cls(crop) for crop in view)]
        nearest = [min((x[i] - x[j]).norm() for j in range(len(x)) if j != i) for i in range(len(x))]
        total = total - torch.stack([(d + 1e-8).log() for d in nearest]).mean()
    return total


def assert_same_gradients(student: nn.Module, loss: Tensor) -> None:
    """Nothing is masked, so the mask token has none."""
    names, parameters = zip(*student.named_parameters())
    expected = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for name, p, want in zip(names, parameters, expected, strict=True):
        assert (p.grad is None) == (name == "backbone.mask_token"), name
        if p.grad is not None:
            assert_near(p.grad, want, 2e-5, 1e-4)


@pytest.mark.parametrize("local", [0, 2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_loss_and_gradients_of_two_steps(targets: str, shared: bool, local: int) -> None:
    student, teacher = tiny.networks(0, shared=shared), frozen(shared=shared)
    m = method(shared=shared, targets=targets, center_momentum=0.6, **WEIGHTS)
    plain, wise = Naive(student), Naive(teacher.networks)
    centers = [torch.zeros(())] * 2
    for step in range(2):
        batch = tiny.batch(3, seed=step, local=local)
        got = m.compare(student, m.targets(teacher, batch, TEMPERATURE), batch)
        cls, patches, seen = naive_targets(wise, batch, None if targets == "sinkhorn" else centers)
        terms = [naive_dino(plain, batch, cls), naive_ibot(plain, batch, patches), naive_koleo(plain, batch)]
        for have, want in zip(got.terms, terms):
            assert_near(have, want.detach(), 1e-5, 1e-5)
        loss = 0.5 * terms[0] + 2.0 * terms[1] + 0.3 * terms[2]
        assert_near(got.loss.detach(), loss.detach(), 1e-5, 1e-5)
        student.zero_grad()
        got.loss.backward()
        assert_same_gradients(student, loss)
        m.after_step()
        centers = [0.6 * center + 0.4 * torch.stack(rows).mean(dim=0) for center, rows in zip(centers, seen)]


def learn(batch: Batch, *, shared: bool = False, **changes: Any) -> tuple[Outcome, Networks, Distillation]:
    """One micro-batch, with its gradients."""
    student, m = tiny.networks(0, shared=shared), method(shared=shared, **changes)
    out = m.compare(student, m.targets(frozen(shared=shared), batch, TEMPERATURE), batch)
    out.loss.backward()
    m.after_step()
    return out, student, m


@pytest.mark.parametrize("ibot_weight", [1.0, 0.0])
@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_masks_change_nothing(targets: str, ibot_weight: float) -> None:
    batch = tiny.batch(4)
    assert batch.masks.any()
    (one, student, _), (two, other, _) = (
        learn(b, targets=targets, ibot_weight=ibot_weight) for b in (batch, bare(batch))
    )
    assert torch.equal(one.loss, two.loss)
    assert all(torch.equal(a, b) for a, b in zip(one.terms, two.terms))
    for (name, a), b in zip(student.named_parameters(), other.parameters()):
        assert (a.grad is None) == (b.grad is None) == (name == "backbone.mask_token"), name
        assert a.grad is None or b.grad is None or torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_without_ibot(targets: str, shared: bool) -> None:
    batch = tiny.batch(4)
    out, student, m = learn(batch, shared=shared, targets=targets, ibot_weight=0.0)
    whole, _, _ = learn(batch, shared=shared, targets=targets)
    assert out.terms.ibot == 0
    assert_near(out.terms.dino, whole.terms.dino, 1e-6)
    assert_near(out.loss, out.terms.dino + 0.1 * out.terms.koleo, 1e-5)
    if student.ibot_head is not None:
        assert all(p.grad is None or not p.grad.any() for p in student.ibot_head.parameters())
    if m.ibot_center is not None:
        assert (m.ibot_center.center == 0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_only_the_student_learns(shared: bool) -> None:
    student, teacher, m = tiny.networks(0, shared=shared), frozen(shared=shared), method(shared=shared)
    before = {name: p.clone() for name, p in teacher.networks.named_parameters()}
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=3e-3), []
    batch = tiny.batch(4)
    for _ in range(8):
        out = m.compare(student, m.targets(teacher, batch, TEMPERATURE), batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        m.after_step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]
    for name, p in teacher.networks.named_parameters():
        assert p.grad is None, name
        assert torch.equal(p, before[name]), name
    grads = {name: p.grad for name, p in student.named_parameters() if name != "backbone.mask_token"}
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads.values())


def test_what_is_observed() -> None:
    out, _, _ = learn(tiny.batch(4))
    seen = out.observed
    assert seen.prototypes is not None
    assert seen.prototypes.targets.shape == seen.prototypes.student_scores.shape == (8, tiny.PROTOTYPES)
    assert seen.student_cls.shape == (4, tiny.DIM)
    assert not any(x.requires_grad for x in (*out.terms, seen.student_cls, *seen.prototypes[:2]))


def test_a_single_image() -> None:
    out, _, _ = learn(tiny.batch(1))
    assert out.loss.isfinite()
    assert out.terms.koleo == 0
