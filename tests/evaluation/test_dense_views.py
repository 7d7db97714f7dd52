"""Views of an image and its target stay aligned, and depend on seed and position alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinotrain.evaluation.dense.views import DenseViews, recolored, scaled_shape

VIEWS = DenseViews(seed=3, size=64, scale=(0.5, 2.0), flip=0.5, color=0.0, most=1.0, unknown=-1, fill=(10, 20, 30))


def coordinates(height: int = 80, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Red and green say where a pixel is, and so does the target."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([2 * rows, 2 * columns, np.full_like(rows, 99)], axis=2).astype(np.uint8)
    return image, rows * 1000 + columns


def test_pixels_and_targets_show_the_same_place() -> None:
    image, target = coordinates()
    padded = mirrored = 0
    for position in range(60):
        view = VIEWS(image, target, position)
        assert view.pixels.shape == (3, 64, 64)
        known = view.target >= 0
        rows, columns = view.target[known] // 1000, view.target[known] % 1000
        assert (view.pixels[0][known].float() / 2 - rows).abs().max() <= 1.5
        assert (view.pixels[1][known].float() / 2 - columns).abs().max() <= 1.5
        assert (view.pixels[2][known] == 99).all()
        fill = torch.tensor(VIEWS.fill, dtype=torch.uint8).unsqueeze(1)
        assert (view.pixels[:, ~known] == fill).all()
        padded += bool((~known).any())
        line = view.target[0][known[0]]
        mirrored += bool(line[0] > line[-1])
    assert 5 < padded < 30
    assert 15 < mirrored < 45


def test_a_view_is_a_function_of_seed_and_position() -> None:
    image, target = coordinates()
    first, again = VIEWS(image, target, 5), VIEWS(image, target, 5)
    assert (first.pixels == again.pixels).all()
    assert (first.target == again.target).all()
    assert not torch.equal(first.target, VIEWS(image, target, 6).target)
    assert not torch.equal(first.target, replace(VIEWS, seed=4)(image, target, 5).target)


def test_colors_vary_and_nothing_else() -> None:
    image, target = coordinates()
    plain, colored = VIEWS(image, target, 7), replace(VIEWS, color=0.4)(image, target, 7)
    assert torch.equal(plain.target, colored.target)
    assert not torch.equal(plain.pixels, colored.pixels)


def test_factors_of_one_change_no_color() -> None:
    pixels = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    assert torch.equal(recolored(pixels, np.ones(3)), pixels)


def test_crops_of_a_single_class_are_drawn_again() -> None:
    target = np.zeros((64, 1000), np.int64)
    target[:, 400:440] = 1
    image = np.zeros((64, 1000, 3), np.uint8)
    views = replace(VIEWS, scale=(1.0, 1.0))
    mixed = [
        sum(len(view(image, target, position).target.unique()) > 1 for position in range(80))
        for view in (views, replace(views, most=0.9))
    ]
    assert mixed[0] < 20
    assert mixed[1] > 2 * mixed[0]


def test_depth_stays_in_its_type() -> None:
    image, _ = coordinates()
    depth = np.full((80, 120), 2.5, np.float32)
    view = replace(VIEWS, unknown=0, scale=(0.5, 0.5))(image, depth, 0)
    assert view.target.dtype == torch.float32
    assert set(view.target.unique().tolist()) == {0.0, 2.5}


@pytest.mark.parametrize(
    ("shape", "short", "multiple", "expected"),
    [((480, 640), 480, 14, (476, 644)), ((100, 50), 64, 1, (128, 64)), ((10, 1000), 3, 14, (14, 294))],
)
def test_shapes_keep_their_proportions(
    shape: tuple[int, int], short: float, multiple: int, expected: tuple[int, int]
) -> None:
    assert scaled_shape(shape, short, multiple) == expected
