"""Mixtures: shares, order, names, and what is passed on to the sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest

from dinotrain.data.batch import Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import Admits
from dinotrain.data.source import Source
from dinotrain.data.sources.mix import MixSource


class _Grey(Source):
    """Images of one level, of which one is broken."""

    def __init__(self, level: int, length: int, broken: int = -1) -> None:
        self._level, self._length, self._broken = level, length, broken
        self.fetched: list[int] = []
        self.shared = False
        self.left_out = (Skipped(f"part{level}", "cut short"),)

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> np.ndarray:
        if index == self._broken:
            raise BrokenImage("is broken")
        return np.full((2, 2, 3), self._level, np.uint8)

    def image(self, index: int, admits: Admits | None = None) -> np.ndarray:
        return self.read(index) if admits is None or not admits(2, 2) else self.read(index)[:1, :1]

    def name(self, index: int) -> str:
        return f"grey{self._level}:{index}"

    def fingerprint(self) -> str:
        return f"{self._level}:{self._length}"

    def share(self) -> None:
        self.shared = True

    def fetch(self, indices: Sequence[int]) -> None:
        self.fetched += indices


def _mixture(*weights: float) -> tuple[MixSource, list[_Grey]]:
    sources = [_Grey(level, 10 * (level + 1), broken=3 if level == 1 else -1) for level in range(len(weights))]
    return MixSource(sources=sources, weights=weights, names=[f"set{n}" for n in range(len(weights))]), sources


def test_images_of_all_sets_one_after_another() -> None:
    mixture, sources = _mixture(1, 1, 1)
    assert len(mixture) == 60
    assert [mixture.name(index) for index in (0, 9, 10, 29, 30, 59)] == [
        *("set0/grey0:0", "set0/grey0:9", "set1/grey1:0", "set1/grey1:19", "set2/grey2:0", "set2/grey2:29")
    ]
    assert [mixture.image(index)[0, 0, 0] for index in (9, 10, 59)] == [0, 1, 2]
    assert mixture.image(0, lambda height, width: True).shape == (1, 1, 3)
    assert isinstance(mixture.read(0), np.ndarray)
    with pytest.raises(BrokenImage, match="is broken"):
        mixture.image(13)
    assert mixture.labels is None
    assert mixture.classes is None
    assert mixture.test() is None
    assert mixture.left_out[1] == Skipped("set1/part1", "cut short")
    for index in (-1, 60):
        with pytest.raises(IndexError):
            mixture.name(index)
    mixture.fetch([59, 0, 12, 30])
    assert [source.fetched for source in sources] == [[0], [2], [29, 0]]
    mixture.share()
    assert all(source.shared for source in sources)


def test_shares_are_those_of_the_weights_and_every_set_goes_through_its_epochs() -> None:
    mixture, sources = _mixture(6, 3, 1)
    positions = np.arange(2**16)
    indices = mixture.order()(positions, 7)
    sets = np.searchsorted([10, 30], indices, side="right")
    counts = Counter(sets.tolist())
    assert [round(10 * counts[number] / 2**16, 3) for number in range(3)] == [6, 3, 1]
    for number in range(len(sources)):
        times = Counter(indices[sets == number].tolist()).values()
        assert len(times) == len(sources[number])
        assert max(times) - min(times) <= 1


def test_any_part_of_the_sequence_is_the_same() -> None:
    order = _mixture(2, 1)[0].order()
    whole = order(np.arange(70_000), 3)
    for start in (0, 1, 12_345, 65_530):
        assert np.array_equal(order(np.arange(start, start + 100), 3), whole[start : start + 100])
    assert not np.array_equal(order(np.arange(100), 4), whole[:100])


def test_replacements_come_from_the_same_set() -> None:
    order = _mixture(1, 1)[0].order()
    for position in range(20):
        index = int(order(np.array([position]), 0)[0])
        others = list(islice(order.replacements(position, 0), 100))
        assert index not in others
        assert {other < 10 for other in others} == {index < 10}
        assert len(set(others)) == len(others) == (9 if index < 10 else 19)


def test_fingerprint_knows_sets_and_shares() -> None:
    prints = [_mixture(*weights)[0].fingerprint() for weights in ((1, 1), (2, 2), (1, 2), (1, 1, 1))]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_what_is_refused() -> None:
    source = _Grey(0, 4)
    with pytest.raises(ValueError, match="sources: got none"):
        MixSource(sources=[], weights=[], names=[])
    with pytest.raises(ValueError, match=r"names: got .* 2 different names"):
        MixSource(sources=[source, source], weights=[1, 1], names=["a", "a"])
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, -1.0]):
        with pytest.raises(ValueError, match="weights: got"):
            MixSource(sources=[source, source], weights=weights, names=["a", "b"])
