"""Contact sheets, neighbour pictures, and the colours of depths."""

from __future__ import annotations

import numpy as np
import pytest
from fake_setting import fake_setting

from dinotrain.evaluation.dense.pictures import depth_bar, depth_colors
from dinotrain.evaluation.neighbour_picture import NEAREST, VOTE, neighbour_picture
from dinotrain.evaluation.neighbours import nearest
from dinotrain.evaluation.tiles import GREEN, sheet, tile


@pytest.mark.parametrize("name", ["cat", "a long name, " * 20, "x" * 300, "漢字 é", "a\nb"])
def test_names_stand_before_their_rows(name: str) -> None:
    row = [tile(np.zeros((40, 40, 3), np.uint8), GREEN)] * 3
    plain, named = sheet([row, row]), sheet([row, row], names=["", name])
    added = named.shape[1] - plain.shape[1]
    assert named.shape[0] == plain.shape[0]
    assert 0 < added < 200
    assert (named[:, added:] == plain).all()
    assert (named[:92, :added] == 255).all()
    assert (named[92:, :added] < 128).any()


def test_queries_say_their_class_and_what_their_frame_tells() -> None:
    setting = fake_setting(spread=3.0)
    train, test = setting.features(setting.train), setting.features(setting.test)
    found = nearest(train.values, test.values, 8, world=setting.world)
    right = np.arange(len(test.rows)) % 2 == 0
    (voted,) = neighbour_picture(setting, train, test, found, right)
    (near,) = neighbour_picture(setting, train, test, found, right, by=NEAREST)
    assert "vote" in VOTE
    assert VOTE in voted.note
    assert NEAREST in near.note
    assert "orange" in voted.note
    assert "red" not in voted.note
    names = voted.image[:, : voted.image.shape[1] - (9 * 92 + 4 + 16)]
    assert all((row < 128).any() for row in np.array_split(names, 8))


def test_unknown_depths_are_grey() -> None:
    colors = depth_colors(np.array([[0.0, 1.0, 5.0, 9.0]]), 1.0, 9.0)
    assert np.ptp(colors[0, 0].astype(int)) == 0
    assert 90 < colors[0, 0, 0] < 170
    assert all(np.ptp(color.astype(int)) > 20 for color in colors[0, 1:])


@pytest.mark.parametrize(("low", "high"), [(0.4, 9.6), (0.0, 1.0), (3.0, 3.0), (0.5, 80.0)])
def test_the_bar_has_the_colours_from_far_to_near_and_says_how_far(low: float, high: float) -> None:
    bar = depth_bar(low, high)
    ends = depth_colors(np.array([[max(high, 1e-6), max(low, 1e-6)]]), low, high)[0]
    assert (bar[0, 0] == ends[0]).all()
    assert (bar[-1, 0] == ends[1]).all()
    right = bar[:, 20:]
    assert (right[:20] < 128).any()
    assert (right[-20:] < 128).any()
    assert (right[30:-30] == 255).all()
