"""The method as a whole (its numbers: test_trajectories)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from reference import assert_near

from dinotrain.methods.self_distillation import Outcome, SelfDistillation
from dinotrain.training.step import draw_seed


def method(*, shared: bool = False, **changes: Any) -> SelfDistillation:
    k = (tiny.PROTOTYPES, tiny.PROTOTYPES if shared else tiny.PATCH_PROTOTYPES)
    return SelfDistillation(**{"num_prototypes": k, **changes})


def outcome(batch: Any = None, *, shared: bool = False, **changes: Any) -> Outcome:
    student, teacher = tiny.networks(0, shared=shared), tiny.networks(1, shared=shared).eval()
    return method(shared=shared, **changes)(student, teacher, batch or tiny.batch(4), 0.05)


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_terms(targets: str, shared: bool) -> None:
    weights = {"dino_weight": 0.5, "ibot_weight": 2.0, "koleo_weight": 0.3}
    out = outcome(shared=shared, targets=targets, **weights)
    expected = 0.5 * out.terms.dino + 2.0 * out.terms.ibot + 0.3 * out.terms.koleo
    assert_near(out.loss, expected, 1e-5)
    assert out.loss.requires_grad
    assert not any(term.requires_grad for term in out.terms)
    assert out.observed.prototypes is not None
    assert out.observed.prototypes.targets.shape == out.observed.prototypes.student_scores.shape == (8, tiny.PROTOTYPES)
    assert out.observed.student_cls.shape == (4, tiny.DIM)
    assert_near(out.observed.prototypes.targets.sum(dim=1), torch.ones(8), 1e-5)


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
@pytest.mark.parametrize("shared", [False, True])
def test_without_ibot_nothing_is_masked(targets: str, shared: bool) -> None:
    batch = tiny.batch(4)
    bare = tiny.from_crops(batch.global_crops, batch.local_crops, torch.zeros_like(batch.masks))
    masked, plain = (outcome(b, shared=shared, targets=targets, ibot_weight=0.0) for b in (batch, bare))
    assert_near(masked.loss, plain.loss, 0.0)
    assert masked.terms.ibot == 0


def test_masks_change_what_the_student_sees() -> None:
    batch = tiny.batch(4)
    bare = tiny.from_crops(batch.global_crops, batch.local_crops, torch.zeros_like(batch.masks))
    assert outcome(batch).terms.dino != outcome(bare).terms.dino


def test_no_koleo_and_no_local_crops() -> None:
    out = outcome(tiny.batch(4, local=0), koleo_weight=0.0)
    assert out.terms.koleo == 0
    assert out.loss.isfinite()


def test_one_image() -> None:
    out = outcome(tiny.batch(1))
    out.loss.backward()
    assert out.loss.isfinite()
    assert out.terms.koleo == 0


def test_only_the_student_learns() -> None:
    student, teacher = tiny.networks(0), tiny.networks(1)
    method()(student, teacher, tiny.batch(4), 0.05).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_shared_head_is_one_pass_over_both_kinds_of_tokens() -> None:
    networks = tiny.networks(shared=True)
    cls, patches = torch.randn(3, tiny.DIM), torch.randn(5, tiny.DIM)
    scores = networks.scores(cls, patches)
    assert_near(scores.cls, networks.dino_head(cls), 1e-6)
    assert_near(scores.patches, networks.dino_head(patches), 1e-6)


def test_views_are_matched_with_other_views_only() -> None:
    """Both global crops equal: then every student view is compared with that one crop's targets."""
    batch = tiny.batch(4, local=0)
    same = replace(batch, global_crops=batch.global_crops[:1].expand(2, -1, -1, -1, -1).contiguous())
    out = outcome(same, ibot_weight=0.0, koleo_weight=0.0, targets="centering")
    assert out.observed.prototypes is not None
    first, second = out.observed.prototypes.targets.chunk(2)
    assert_near(first, second, 1e-6)
    entropy = -(first * out.observed.prototypes.student_scores[:4].div(0.1).log_softmax(dim=1)).sum(dim=1).mean()
    assert_near(out.terms.dino, entropy, 1e-5)


def test_centers_move_once_per_step() -> None:
    m = method(targets="centering")
    student, teacher = tiny.networks(0), tiny.networks(1)
    for _ in range(2):
        m(student, teacher, tiny.batch(4), 0.05)
        assert all((center == 0).all() for center in m.state_dict().values())
    m.after_step()
    assert set(m.state_dict()) == {"dino_center.center", "ibot_center.center"}
    assert all((center != 0).any() for center in m.state_dict().values())


def test_draws_differ_by_seed_step_micro_batch_and_process() -> None:
    seeds = {draw_seed(*place) for place in itertools.product(range(5), repeat=4)}
    assert len(seeds) == 5**4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("targets", "softmax"),
        ("student_temperature", 0.0),
        ("sinkhorn_iterations", 0),
        ("center_momentum", 1.5),
        ("dino_weight", -1.0),
        ("ibot_weight", -1.0),
        ("koleo_weight", -0.1),
    ],
)
def test_values_that_make_no_sense(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: got .*, expected .") as error:
        method(**{key: value})
    assert "\n" not in str(error.value)
