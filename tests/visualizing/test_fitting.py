"""Images of any shape as inputs of a network."""

from __future__ import annotations

import numpy as np
import pytest

from dinotrain.visualizing.fitting import fitted


@pytest.mark.parametrize("shape", [(50, 50), (40, 90), (300, 100), (7, 7), (1, 500), (700, 2)])
def test_sides_are_multiples_of_the_patch_and_as_many_patches_as_asked_for(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = fitted(image, size=64, patch=4, square=False)
    height, width = pixels.shape[1:]
    assert height % 4 == width % 4 == 0
    assert 0.8 * 256 < height * width / 16 < 1.25 * 256
    ratio = height / width
    assert ratio == pytest.approx(np.clip(shape[0] / shape[1], 1 / 16, 16), rel=0.15)


def test_a_square_is_the_middle_of_the_image() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    pixels = fitted(image, size=16, patch=4, square=True)
    assert pixels.shape == (3, 16, 16)
    assert (pixels == 200).all()
