"""Feature matching against the loop it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from reference import assert_near
from torch import Tensor

from dinotrain.losses.features import FeatureTerms, feature_loss


def rows(seed: int, count: int = 7, dim: int = 5, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def naive(student: Tensor, target: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    cosines, distances = [], []
    for s, t in zip(student, target):
        cosines.append(1 - (s * t).sum() / ((s * s).sum().sqrt() * (t * t).sum().sqrt()))
        for d in (s - t).abs():
            distances.append(d * d / (2 * beta) if d < beta else d - beta / 2)
    return torch.stack(cosines).mean(), torch.stack(distances).mean()


def gradients(terms: FeatureTerms | tuple[Tensor, Tensor], x: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(term, x, retain_graph=True)[0] for term in terms]


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_values_and_gradients(beta: float, scale: float) -> None:
    target = rows(1, scale=scale)
    exact, x = rows(0, scale=scale).double().requires_grad_(), rows(0, scale=scale).requires_grad_()
    expected, got = naive(exact, target.double(), beta), feature_loss(x, target, beta=beta)
    for want, have in zip([*expected, *gradients(expected, exact)], [*got, *gradients(got, x)]):
        assert_near(have.double(), want, 1e-6 * float(want.detach().abs().max()), 1e-5)


def test_differences_agree_with_the_gradient() -> None:
    """In single precision, along a random direction."""
    x, target, direction = rows(0), rows(1), rows(2)
    step = 1e-2
    forward, back = (feature_loss(x + s * direction, target, beta=1.0) for s in (step, -step))
    for ahead, behind, slope in zip(forward, back, gradients(feature_loss(x.requires_grad_(), target, beta=1.0), x)):
        assert_near((ahead - behind) / (2 * step), (slope * direction).sum(), 1e-3)


def test_cosine_looks_at_directions_alone() -> None:
    x, target = rows(0), rows(1)
    assert_near(feature_loss(9 * x, target / 7, beta=1.0).cosine, feature_loss(x, target, beta=1.0).cosine, 1e-6)


def test_what_agrees_and_what_is_opposite() -> None:
    x = rows(0)
    same, opposite = feature_loss(x, x, beta=1.0), feature_loss(x, -x, beta=1.0)
    assert_near(torch.stack(same), torch.zeros(2), 1e-6)
    assert_near(opposite.cosine, torch.tensor(2.0), 1e-6)
    assert opposite.smooth_l1 > 0


def test_beta_is_where_the_slope_ends() -> None:
    x = torch.tensor([[0.1, 0.4, 5.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(feature_loss(x, torch.zeros(1, 3), beta=0.5).smooth_l1, x)
    assert_near(3 * slope, torch.tensor([[0.2, 0.8, 1.0]]), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computed_in_float32(dtype: torch.dtype) -> None:
    x, target = rows(0, dim=4000).to(dtype), rows(1, dim=4000, scale=30.0).to(dtype)  # squares add up beyond fp16
    got = feature_loss(x, target, beta=1.0)
    assert got.cosine.dtype == got.smooth_l1.dtype == torch.float32
    for have, want in zip(got, feature_loss(x.float(), target.float(), beta=1.0)):
        assert_near(have, want, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("length", [0.0, 1e-7, 1e-4])
def test_rows_of_next_to_no_length(dtype: torch.dtype, length: float) -> None:
    """Finite, with a gradient that fp16 can hold, and that leads towards the target."""
    x = rows(0)
    x[2] *= length / x[2].norm()
    x, target = x.to(dtype).requires_grad_(), rows(1)
    terms = feature_loss(x, target, beta=1.0)
    assert all(term.isfinite() for term in terms)
    for gradient in gradients(terms, x):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1001
        assert (gradient[2].float() * target[2]).sum() < 0


def test_a_zero_row_agrees_with_nothing() -> None:
    zero, target = torch.zeros(3, 5), rows(1, count=3)
    assert feature_loss(zero, target, beta=1.0).cosine == 1
    x = rows(0, count=3).requires_grad_()
    terms = feature_loss(x, zero, beta=1.0)
    assert terms.cosine == 1
    assert (gradients(terms, x)[0] == 0).all()
    assert feature_loss(zero, zero, beta=1.0).cosine == 1


def test_no_rows() -> None:
    x = torch.zeros(0, 5, requires_grad=True)
    terms = feature_loss(x, torch.zeros(0, 5), beta=1.0)
    (terms.cosine + terms.smooth_l1).backward()
    assert terms.cosine == terms.smooth_l1 == 0
    assert x.grad is not None


def test_unrelated_features_are_at_chance_level() -> None:
    """Cosine distance 1 - O(1 / sqrt(D)), whatever the lengths."""
    terms = feature_loss(rows(0, 64, 400), rows(1, 64, 400, scale=3.0), beta=1.0)
    assert float(terms.cosine) == pytest.approx(1.0, abs=4 / math.sqrt(64 * 400))
