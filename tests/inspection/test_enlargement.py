"""Which crops have to be enlarged."""

from __future__ import annotations

import numpy as np
import pytest

from dinotrain.data.crops import MultiCrop
from dinotrain.inspection.enlargement import enlargement

CROPS = MultiCrop(global_size=64, local_size=24, num_local=2)


def test_nothing_is_enlarged_of_large_images() -> None:
    sides = np.full(50, 400)
    of_global, of_local = enlargement(CROPS, sides, sides, seed=0)
    assert of_local is not None
    assert (of_global.share, of_local.share) == (0, 0)
    # The square root of the mean of the areas, but for the aspect.
    assert of_global.side == pytest.approx(400 * 0.66**0.5, rel=0.15)


def test_everything_is_enlarged_of_small_images() -> None:
    sides = np.full(50, 20)
    of_global, of_local = enlargement(CROPS, sides, sides, seed=0)
    assert of_local is not None
    assert (of_global.share, of_local.share) == (1, 1)


def test_the_share_is_that_of_the_crops() -> None:
    sides = np.repeat([20, 400], 40)
    assert enlargement(CROPS, sides, sides, seed=0)[0].share == 0.5


def test_there_may_be_no_local_crops() -> None:
    sides = np.full(5, 100)
    assert enlargement(MultiCrop(global_size=64, num_local=0), sides, sides, seed=0)[1] is None
