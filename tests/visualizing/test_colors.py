"""Patch tokens as colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dinotrain.evaluation.pictures import components
from dinotrain.visualizing.colors import foreground, joint_colors, otsu
from dinotrain.visualizing.seen import Seen


def seen(patches: Tensor, grid: tuple[int, int]) -> Seen:
    attention = torch.zeros(2, *grid)
    return Seen(name="image", pixels=np.zeros((8, 8, 3), np.uint8), grid=grid, patches=patches, attention=attention)


def scenes() -> tuple[list[Seen], list[Tensor]]:
    """Two images of other shapes, an object in the middle of each; and where it is."""
    random = torch.Generator().manual_seed(0)
    images, objects = [], []
    for rows, columns in ((6, 6), (5, 9)):
        there = torch.zeros(rows, columns, dtype=torch.bool)
        there[2:4, 2:5] = True
        tokens = 0.1 * torch.randn(rows * columns, 8, generator=random)
        tokens[there.flatten(), 3] += 4.0
        images.append(seen(tokens, (rows, columns)))
        objects.append(there)
    return images, objects


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    tokens = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 3, 2, 1, 1, 1])
    centered = tokens - tokens.mean(dim=0)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    torch.testing.assert_close(components(tokens, 3).abs(), (u * s)[:, :3].abs(), atol=1e-4, rtol=1e-4)


def test_the_same_thing_has_the_same_colour_in_all_images() -> None:
    images, objects = scenes()
    colored = joint_colors(images)
    assert [tuple(part.colors.shape) for part in colored] == [(6, 6, 3), (5, 9, 3)]
    assert all(part.shown.all() for part in colored)
    first = [part.colors[:, :, 0][there].mean() for part, there in zip(colored, objects)]
    behind = [part.colors[:, :, 0][~there].mean() for part, there in zip(colored, objects)]
    assert abs(first[0] - first[1]) < 0.1
    assert min(abs(a - b) for a in first for b in behind) > 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_what_is_not_at_the_borders(sign: int) -> None:
    images, objects = scenes()
    images = [seen(sign * image.patches, image.grid) for image in images]
    for part, other, there in zip(joint_colors(images, "foreground"), joint_colors(images, "other"), objects):
        assert torch.equal(part.shown, there)
        assert torch.equal(other.shown, ~there)
        assert (part.colors[~there] == 0).all()


@pytest.mark.parametrize("show", ["all", "foreground", "other"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (2, 2)])
def test_hardly_any_patches_and_equal_ones_have_colours(show: str, grid: tuple[int, int]) -> None:
    images = [seen(torch.ones(grid[0] * grid[1], 4), grid)]
    (part,) = joint_colors(images, show)  # type: ignore[arg-type]
    assert torch.isfinite(part.colors).all()
    assert part.shown.all()


def test_the_threshold_lies_between_two_groups() -> None:
    values = torch.cat([torch.linspace(0, 1, 90), torch.linspace(7, 8, 10)])
    assert 1 <= otsu(values) <= 7
    border = torch.arange(100) >= 90
    assert torch.equal(foreground(values, border), ~border)
