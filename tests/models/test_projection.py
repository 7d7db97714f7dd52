"""The projection of student tokens to the width of the teacher."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference import assert_near

from dinotrain.models.init import initialize
from dinotrain.models.projection import Projection


def test_one_map() -> None:
    projection = Projection(in_dim=4, out_dim=6)
    x = torch.randn(2, 3, 4)
    weight, bias = projection.parameters()
    assert_near(projection(x), x @ weight.T + bias, 1e-6)


def test_two_maps() -> None:
    projection = Projection(in_dim=4, out_dim=6, hidden_dim=5)
    x = torch.randn(7, 4)
    first, shift, second, offset = projection.parameters()
    assert first.shape == (5, 4)
    assert_near(projection(x), F.gelu(x @ first.T + shift) @ second.T + offset, 1e-6)


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 4), (2, 3, 4)])
def test_any_number_of_rows(hidden: int | None, shape: tuple[int, ...]) -> None:
    projection = Projection(in_dim=4, out_dim=6, hidden_dim=hidden)
    out = projection(torch.zeros(shape))
    assert out.shape == (*shape[:-1], 6)
    out.sum().backward()
    assert all(p.grad is not None for p in projection.parameters())


@pytest.mark.parametrize(("std", "expected"), [(0.05, 0.05), (None, math.sqrt(2 / 700))])
def test_initial_values(std: float | None, expected: float) -> None:
    projection = Projection(in_dim=300, out_dim=400, init_std=std)
    initialize(projection, 0, projection.initial)
    weight, bias = projection.parameters()
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert (bias == 0).all()


@pytest.mark.parametrize("key", ["in_dim", "out_dim", "hidden_dim"])
def test_sizes_below_one(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: got 0, expected at least 1$"):
        Projection(**{"in_dim": 4, "out_dim": 6, key: 0})


def test_wrong_init_std() -> None:
    with pytest.raises(ValueError, match=r"^init_std: got 0.0, expected a number above 0$"):
        Projection(in_dim=4, out_dim=6, init_std=0.0)
