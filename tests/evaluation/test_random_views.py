from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_setting import Pictures

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.evaluation.linear.random_views import RandomViews
from dinotrain.evaluation.splits import whole


class Gradients(Source):
    """Pictures whose red is the column, and whose green is the row."""

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> np.ndarray:
        row, column = np.mgrid[:100, :120].astype(np.uint8)
        return np.stack([column, row, np.full_like(row, index)], axis=2)

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "gradients"


def views(seed: int = 0, size: int = 16) -> RandomViews:
    return RandomViews(whole(Gradients(), "train").part(np.array([4, 2, 3])), size=size, seed=seed)


def test_a_view_is_a_function_of_seed_and_position() -> None:
    first = [views().view(position) for position in range(9)]
    again = [views().view(position) for position in reversed(range(9))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    assert not torch.equal(first[0], views(1).view(0))
    assert all(view.shape == (3, 16, 16) for view in first)
    assert all(view.dtype == torch.uint8 for view in first)


def test_every_image_once_an_epoch_and_the_row_is_that_of_the_view() -> None:
    rows = views().rows(np.arange(9))
    assert all(sorted(epoch) == [0, 1, 2] for epoch in rows.reshape(3, 3).tolist())
    blue = [int(views().view(position)[2, 8, 8]) for position in range(9)]
    assert blue == np.array([4, 2, 3])[rows].tolist()


def test_crops_cover_what_the_protocol_says_and_half_are_mirrored() -> None:
    made = views(size=32)
    areas, mirrored = [], 0
    for position in range(300):
        red, green, _ = made.view(position).float()
        wide, high = (float(red[16, 31] - red[16, 0]), float(green[31, 16] - green[0, 16]))
        mirrored += wide < 0
        areas.append(abs(wide) * high * (32 / 31) ** 2 / (100 * 120))
    assert 0.4 < mirrored / 300 < 0.6
    assert 0.05 < min(areas) < 0.12
    assert 0.9 < max(areas) < 1.1
    assert 0.4 < float(np.mean(areas)) < 0.6


def test_broken_images_are_told() -> None:
    made = RandomViews(whole(Pictures(4, broken=(1,)), "train"), size=16, seed=0)
    position = int(np.flatnonzero(made.rows(np.arange(4)) == 1)[0])
    with pytest.raises(BrokenImage):
        made.view(position)


def test_the_source_is_told_what_will_be_read() -> None:
    asked: list[int] = []

    class Remote(Gradients):
        def fetch(self, indices) -> None:
            asked.extend(indices)

    made = RandomViews(whole(Remote(), "train").part(np.array([4, 2, 3])), size=16, seed=0)
    made.fetch([0, 1, 2])
    assert sorted(asked) == [2, 3, 4]
