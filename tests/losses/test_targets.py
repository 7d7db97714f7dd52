"""Properties of the targets: Sinkhorn-Knopp assignments and centers."""

from __future__ import annotations

import pytest
import torch
from reference import assert_near
from spawn import run_processes
from torch import Tensor

from dinotrain.losses.targets import Center, sinkhorn_knopp


def scores(rows: int = 40, k: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, k, generator=generator) * 2 - 1


def naive_sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """In float64 and in logarithms, so that nothing under- or overflows."""
    x = logits.double() / temperature
    for _ in range(iterations):
        x = x - x.logsumexp(dim=0, keepdim=True)
        x = x - x.logsumexp(dim=1, keepdim=True)
    return x.exp()


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.04, 0.01, 0.001])
@pytest.mark.parametrize("iterations", [1, 3])
def test_assignments_equal_the_exact_ones(temperature: float, iterations: int) -> None:
    x = scores()
    x[3] -= 1  # a row far below the others
    got = sinkhorn_knopp(x, temperature, iterations)
    assert_near(got.double(), naive_sinkhorn(x, temperature, iterations), 2e-5 + 2e-7 / temperature)
    assert_near(got.sum(dim=1), torch.ones(40), 1e-5)


def test_prototypes_are_used_alike() -> None:
    use = sinkhorn_knopp(scores(), 0.1, 50).sum(dim=0)
    assert_near(use, torch.full((12,), 40 / 12), 1e-3)


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shift_and_precision(shift: float, dtype: torch.dtype) -> None:
    x = (scores() * 8).round() / 8  # exact in all precisions, also after the shift
    expected = sinkhorn_knopp(x, 0.125)
    assert expected.dtype == torch.float32
    assert_near(sinkhorn_knopp(x.to(dtype), 0.125), expected, 0.0)
    assert_near(sinkhorn_knopp(x + shift, 0.125), expected, 1e-4)


def test_shifting_one_row_changes_little_in_the_limit() -> None:
    x = scores()
    shifted = x + torch.arange(40)[:, None] / 40
    assert_near(sinkhorn_knopp(x, 0.2, 60), sinkhorn_knopp(shifted, 0.2, 60), 1e-3)


def test_no_rows() -> None:
    assert sinkhorn_knopp(torch.zeros(0, 5), 0.1).shape == (0, 5)


def _share(rank: int, x: Tensor, sizes: list[int], temperature: float) -> tuple[Tensor, Tensor]:
    mine = x.split(sizes)[rank]
    center = Center(x.shape[1])
    center(mine, temperature)
    center.update()
    return sinkhorn_knopp(mine, temperature), center.center


@pytest.mark.parametrize("sizes", [[20, 20], [31, 9], [40, 0], [0, 40]])
def test_processes_share_one_assignment(sizes: list[int]) -> None:
    x = scores()
    for temperature in (0.05, 0.001):
        parts = run_processes(2, _share, x, sizes, temperature)
        joint = torch.cat([part for part, _ in parts])
        assert_near(joint, sinkhorn_knopp(x, temperature), 1e-6 + 1e-7 / temperature)
        for _, center in parts:
            assert_near(center, 0.1 * x.mean(dim=0), 1e-6)


def test_no_rows_anywhere() -> None:
    for part, center in run_processes(2, _share, scores()[:0], [0, 0], 0.1):
        assert part.shape == (0, 12)
        assert (center == 0).all()


def test_center_of_a_split_step() -> None:
    """Two micro-batches of different sizes give the center of the whole."""
    x = scores()
    whole, split = Center(12), Center(12)
    for center, parts in ((whole, [x]), (split, [x[:7], x[7:]])):
        for _ in range(3):
            for part in parts:
                center(part, 0.05)
            center.update()
    assert_near(split.center, whole.center, 1e-6)


def test_center_without_rows_is_not_moved_by_nothing() -> None:
    center = Center(4)
    center.center.fill_(1.0)
    center(torch.zeros(0, 4), 0.1)
    center.update()
    assert_near(center.center, torch.ones(4), 0.0)


def test_wrong_mean() -> None:
    with pytest.raises(ValueError, match=r"center_mean: got 'rank', expected rows or processes"):
        Center(4, mean="rank")


def test_only_the_center_is_saved() -> None:
    assert list(Center(4).state_dict()) == ["center"]
