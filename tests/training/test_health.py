"""Measures of learning and of collapse, against what is known of simple cases."""

from __future__ import annotations

import math

import pytest
import torch

from dinotrain.methods.outcome import Observed, Prototypes
from dinotrain.training.health import (
    effective_rank,
    entropy,
    feature_std,
    health,
    kl_divergence,
    nearest_distance,
    prototypes_used,
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_entropy_is_zero_for_certainty_and_ln_k_for_ignorance() -> None:
    assert entropy(torch.eye(5)).item() == 0
    assert entropy(torch.full((3, 7), 1 / 7)).item() == pytest.approx(math.log(7))


def test_kl_is_the_naive_sum() -> None:
    targets, student = random(4, 6).softmax(-1), random(6, 4).T.contiguous().log_softmax(-1)
    expected = sum(
        targets[r, k].item() * (targets[r, k].log().item() - student[r, k].item()) for r in range(4) for k in range(6)
    )
    assert kl_divergence(targets, student).item() == pytest.approx(expected / 4, abs=1e-6)
    assert kl_divergence(targets, targets.log()).item() == pytest.approx(0, abs=1e-6)


def test_prototypes_used_is_a_share_of_what_the_batch_could_use() -> None:
    assert prototypes_used(torch.eye(4, 100)).item() == 1
    assert prototypes_used(torch.eye(100)[[3] * 4]).item() == 0.25
    assert prototypes_used(torch.eye(2)[[0, 1, 0, 1, 0, 1]]).item() == 1


def test_feature_std_is_one_when_spread_evenly_and_zero_when_collapsed() -> None:
    assert feature_std(random(2000, 64)).item() == pytest.approx(1, abs=0.02)
    assert feature_std(random(1, 64).expand(50, -1)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize(("rows", "dims"), [(20, 64), (64, 20)])
def test_effective_rank_counts_equal_directions(rank: int, rows: int, dims: int) -> None:
    left = random(rows, rows)
    left = torch.linalg.qr(left - left.mean(dim=0))[0][:, :rank]
    right = torch.linalg.qr(random(dims, dims))[0][:rank]
    features = left @ right + random(1, dims)
    assert effective_rank(features).item() == pytest.approx(rank, rel=1e-3)


def test_effective_rank_equals_its_definition() -> None:
    features = random(30, 12) * torch.linspace(0.01, 3, 12)
    shares = torch.linalg.svdvals(features - features.mean(dim=0))
    shares = shares / shares.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares.tolist()))
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_collapsed_features_is_one() -> None:
    assert effective_rank(torch.ones(8, 16)).item() == 1


def test_nearest_distance_is_on_the_sphere() -> None:
    corners = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert nearest_distance(corners).item() == pytest.approx(math.sqrt(2), abs=1e-6)
    assert nearest_distance(torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-3)


def measure(cls: torch.Tensor) -> dict[str, float]:
    measured = health(Observed(cls, Prototypes(random(6, 10).softmax(-1), random(6, 10), 0.1)))
    return {name: value.item() for name, value in measured.items()}


def test_health_reports_all_of_them_in_any_precision() -> None:
    wide, narrow = measure(random(8, 16)), measure(random(8, 16).bfloat16())
    for name, value in wide.items():
        assert math.isfinite(value), name
        assert narrow[name] == pytest.approx(value, rel=0.02), name
    log_student = (random(6, 10) / 0.1).log_softmax(-1)
    assert wide["student_entropy"] == pytest.approx(entropy(log_student.exp()).item())


def test_a_batch_of_one_and_numbers_that_are_none_end_nothing() -> None:
    assert math.isnan(measure(random(1, 16))["nearest_distance"])
    broken = random(8, 16)
    broken[2, 3] = torch.inf
    assert math.isnan(measure(broken)["effective_rank"])
