"""Patch features on another grid."""

from __future__ import annotations

import pytest
import torch
from reference import assert_near
from torch import Tensor

from dinotrain.models.grid import resample


def weights(source: int, target: int) -> Tensor:
    """Which share each source patch of a side has in each target patch: a triangle around its place, cut at the edge.

    The triangle is as wide as the wider of the two kinds of patches.
    """
    ratio = source / target
    width = max(ratio, 1.0)
    out = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        for j in range(source):
            out[i, j] = max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * ratio) / width)
        out[i] /= out[i].sum()
    return out


def naive(features: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    rows, columns = weights(grid[0], to[0]), weights(grid[1], to[1])
    x = features.double().reshape(features.shape[0], *grid, -1)
    return torch.einsum("pr,qc,brcd->bpqd", rows, columns, x).flatten(1, 2)


def drawn(grid: tuple[int, int], dim: int = 3) -> Tensor:
    return torch.randn(2, grid[0] * grid[1], dim, generator=torch.Generator().manual_seed(0))


PAIRS = [((4, 4), (7, 7)), ((7, 7), (4, 4)), ((16, 16), (3, 5)), ((3, 8), (6, 4)), ((5, 4), (5, 9)), ((2, 3), (1, 1))]


@pytest.mark.parametrize(("grid", "to"), PAIRS)
def test_values(grid: tuple[int, int], to: tuple[int, int]) -> None:
    x = drawn(grid)
    assert_near(resample(x, grid, to).double(), naive(x, grid, to), 1e-5)


def test_equal_grids_give_the_same_tensor() -> None:
    x = drawn((4, 5))
    assert resample(x, (4, 5), (4, 5)) is x


def test_a_turned_grid_is_another() -> None:
    x = drawn((2, 3))
    assert not torch.equal(resample(x, (2, 3), (3, 2)), x)


@pytest.mark.parametrize(("grid", "to"), PAIRS)
def test_nothing_is_added(grid: tuple[int, int], to: tuple[int, int]) -> None:
    """A constant stays, and no value lies outside of those there were."""
    x = drawn(grid)
    x[..., 0] = 3.0
    out = resample(x, grid, to)
    assert_near(out[..., 0], torch.full_like(out[..., 0], 3.0), 1e-5)
    assert out.max() <= x.max() + 1e-5
    assert out.min() >= x.min() - 1e-5


def test_values_stay_at_their_places() -> None:
    """A ramp over the image is the same ramp on a finer grid, away from the edge."""
    places = lambda n: (torch.arange(n) + 0.5) / n  # noqa: E731
    x = torch.stack(torch.meshgrid(places(6), places(4), indexing="ij"), dim=-1).flatten(0, 1)[None]
    out = resample(x, (6, 4), (12, 8))[0].unflatten(0, (12, 8))
    expected = torch.stack(torch.meshgrid(places(12), places(8), indexing="ij"), dim=-1)
    assert_near(out[1:-1, 1:-1], expected[1:-1, 1:-1], 1e-6)


def test_shrinking_sees_every_patch() -> None:
    """Stripes finer than the new patches become their mean."""
    x = torch.tensor([1.0, -1.0]).repeat(16 * 8).reshape(1, 256, 1)
    out = resample(x, (16, 16), (4, 4)).unflatten(1, (4, 4))
    assert_near(out[:, :, 1:3], torch.zeros(1, 4, 2, 1), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computed_in_float32(dtype: torch.dtype) -> None:
    x = drawn((7, 7)).to(dtype)
    out = resample(x, (7, 7), (4, 5))
    assert out.dtype == dtype
    assert_near(out, resample(x.float(), (7, 7), (4, 5)).to(dtype), 0.0)


@pytest.mark.parametrize(("grid", "to"), [((2, 3), (4, 4)), ((4, 4), (2, 3))])
def test_gradient(grid: tuple[int, int], to: tuple[int, int]) -> None:
    x = drawn(grid, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: resample(y, grid, to), x)


def test_no_images() -> None:
    assert resample(torch.zeros(0, 6, 3), (2, 3), (4, 4)).shape == (0, 16, 3)


def test_wrong_grids() -> None:
    with pytest.raises(ValueError, match=r"^features: got 6 patches, expected 2x2$"):
        resample(torch.zeros(1, 6, 3), (2, 2), (4, 4))
    with pytest.raises(ValueError, match=r"^to: got 0x4 patches, expected at least 1x1$"):
        resample(torch.zeros(1, 6, 3), (2, 3), (0, 4))
