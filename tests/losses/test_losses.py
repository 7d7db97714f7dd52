"""The losses against the loops they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from reference import assert_near
from torch import Tensor

from dinotrain.losses.cross_entropy import cross_entropy_rows
from dinotrain.losses.dino import dino_loss
from dinotrain.losses.ibot import ibot_loss
from dinotrain.losses.koleo import koleo_loss

SEEDS = list(range(6))


def drawn(seed: int, *smallest: int) -> tuple[torch.Generator, list[int]]:
    """A generator, and sizes of at least so much."""
    generator = torch.Generator().manual_seed(seed)
    return generator, [low + int(torch.randint(0, 5, (), generator=generator)) for low in smallest]


def cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return -(target * (logits / temperature).log_softmax(dim=-1)).sum(dim=-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_dino(seed: int) -> None:
    generator, (views, local, images, k) = drawn(seed, 2, 0, 1, 2)
    student = torch.randn(views + local, images, k, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(views, images, k, generator=generator, dtype=torch.float64).softmax(dim=-1)
    pairs = [(s, t) for s in range(views + local) for t in range(views) if s != t]
    naive = torch.stack([cross_entropy(student[s], targets[t], 0.1).mean() for s, t in pairs]).mean()
    terms = dino_loss(student[:views].float(), student[views:].float(), targets.float(), 0.1)
    fast = terms.local + terms.global_
    assert_near(fast.double(), naive, 0.0, 1e-5)
    (expected,), (got,) = torch.autograd.grad(naive, student), torch.autograd.grad(fast, student)
    assert_near(got, expected, 1e-6, 1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_ibot(seed: int) -> None:
    generator, (images, patches, k) = drawn(seed, 1, 2, 2)
    masks = torch.rand(images, patches, generator=generator) < 0.4
    rows = int(masks.sum())
    student = torch.randn(rows, k, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(rows, k, generator=generator, dtype=torch.float64).softmax(dim=-1)
    counts = masks.sum(dim=1).tolist()
    per_image = zip(student.split(counts), targets.split(counts))
    naive = sum((cross_entropy(s, t, 0.1).mean() for s, t in per_image if len(s)), torch.zeros(())) / images
    weights = torch.tensor([1 / count for count in counts for _ in range(count)])
    fast = ibot_loss(student.float(), targets.float(), weights, images, 0.1)
    assert_near(fast.double(), naive.double(), 1e-7, 1e-5)
    if rows:
        (expected,), (got,) = torch.autograd.grad(naive, student), torch.autograd.grad(fast, student)
        assert_near(got, expected, 1e-6, 1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_koleo(seed: int) -> None:
    generator, (rows, dim) = drawn(seed, 2, 3)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64).requires_grad_()
    unit = x / x.norm(dim=1, keepdim=True)
    nearest = [min(float((unit[i] - unit[j]).detach().norm()) for j in range(rows) if j != i) for i in range(rows)]
    naive = -sum(math.log(d + 1e-8) for d in nearest) / rows
    assert float(koleo_loss(x.detach().float())) == pytest.approx(naive, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [0, 1])
def test_koleo_without_neighbours(rows: int) -> None:
    x = torch.ones(rows, 4, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 1.0, 1000.0])
def test_koleo_of_equal_rows_is_finite(dtype: torch.dtype, fill: float) -> None:
    x = torch.full((5, 8), fill, dtype=dtype, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert loss.isfinite()
    assert loss <= -math.log(1e-8)
    assert x.grad is not None
    if dtype == torch.float32:
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 3, 8).to(dtype)
    targets = torch.randn(2, 3, 8).softmax(dim=-1)
    assert cross_entropy_rows(logits, targets, 0.1).dtype == torch.float32
    assert_near(cross_entropy_rows(logits, targets, 0.1), cross_entropy(logits.float(), targets, 0.1), 1e-5, 1e-5)
    assert dino_loss(logits, logits[:0], targets, 0.1).global_.dtype == torch.float32
    assert koleo_loss(logits[0]).dtype == torch.float32


def test_uniform_scores_are_at_chance_level() -> None:
    """ln K, whatever the targets."""
    targets = torch.randn(2, 3, 8).softmax(dim=-1)
    terms = dino_loss(torch.zeros(2, 3, 8), torch.zeros(4, 3, 8), targets, 0.1)
    assert float(terms.local + terms.global_) == pytest.approx(math.log(8), rel=1e-5)
    loss = ibot_loss(torch.zeros(4, 8), targets[0, :1].expand(4, 8), torch.full((4,), 0.25), 1, 0.1)
    assert float(loss) == pytest.approx(math.log(8), rel=1e-5)


def test_no_rows_at_all() -> None:
    loss = ibot_loss(torch.zeros(0, 8, requires_grad=True), torch.zeros(0, 8), torch.zeros(0), 4, 0.1)
    loss.backward()
    assert loss == 0
