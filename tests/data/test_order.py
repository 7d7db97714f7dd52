"""Order of samples: exact permutations, a new one per epoch and seed, one sequence whatever the world size."""

from __future__ import annotations

import pickle
from itertools import islice

import numpy as np
import pytest

from dinotrain.data.order import Mixed, Shuffled, Windowed, positions, sample_index, sample_rng


@pytest.mark.parametrize("length", [*range(1, 70), 255, 256, 257, 1000, 4097, 65536, 100_003])
def test_every_sample_once_in_each_epoch(length: int) -> None:
    index = sample_index(np.arange(3 * length), length, seed=7).reshape(3, length)
    assert (np.sort(index, axis=1) == np.arange(length)).all()
    if length > 10:
        assert not (index[0] == index[1]).all()
        assert not (index[0] == sample_index(np.arange(length), length, seed=8)).all()


def test_an_index_depends_on_its_position_alone() -> None:
    whole = sample_index(np.arange(5000), 777, seed=3)
    for position in (0, 776, 777, 4999):
        assert int(sample_index(position, 777, seed=3)) == whole[position]
    shuffled = np.random.default_rng(0).permutation(5000).reshape(50, 100)
    assert (sample_index(shuffled, 777, seed=3) == whole[shuffled]).all()


def test_indices_of_a_huge_set_are_in_range_and_distinct() -> None:
    index = sample_index(10**12 + np.arange(100_000), 10**11 + 7, seed=1)
    assert index.min() >= 0
    assert index.max() < 10**11 + 7
    assert len(np.unique(index)) == len(index)


@pytest.mark.parametrize("length", [2, 3, 5, 10])
def test_permutations_are_uniform(length: int) -> None:
    epochs = 6000
    index = sample_index(np.arange(epochs * length), length, seed=11).reshape(epochs, length)
    counts = np.stack([(index == value).sum(0) for value in range(length)])
    expected = epochs / length
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (length - 1) ** 2
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_neighbours_of_a_large_set_are_not_correlated() -> None:
    index = sample_index(np.arange(100_000), 100_000, seed=0) / 100_000
    for lag in (1, 2, 16):
        assert abs(np.corrcoef(index[:-lag], index[lag:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), index)[0, 1]) < 0.02
    for seed in (1, 2**32, 2**63):
        other = sample_index(np.arange(100_000), 100_000, seed=seed)
        assert abs(np.corrcoef(other, index)[0, 1]) < 0.02


def test_replacements_are_all_other_samples_once() -> None:
    for length in (2, 3, 17):
        for position in (0, 5, 1000):
            own = int(sample_index(position, length, seed=4))
            others = list(Shuffled(length).replacements(position, 4))
            assert sorted([own, *others]) == list(range(length))
    assert list(Shuffled(1).replacements(0, 0)) == []


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 24), (1, 4), (2, 4), (3, 8), (4, 2)])
def test_positions_of_all_processes_make_up_the_step(world_size: int, micro_batch: int) -> None:
    blocks = []
    for micro in range(24 // (world_size * micro_batch)):
        for rank in range(world_size):
            block = positions(5, micro, rank, global_batch=24, micro_batch=micro_batch, world_size=world_size)
            assert (np.diff(block) == 1).all()
            blocks.append(block)
    assert np.concatenate(blocks).tolist() == list(range(120, 144))


def test_random_numbers_depend_on_seed_position_and_stream() -> None:
    draws = {
        (seed, position, stream): tuple(sample_rng(seed, position, stream).random(4))
        for seed in (0, 1, -1)
        for position in (0, 1, 10**12)
        for stream in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 1, 1] == tuple(sample_rng(1, 1, 1).random(4))
    means = [sample_rng(0, position).random() for position in range(2000)]
    assert abs(np.mean(means) - 0.5) < 0.03


LENGTHS = (5, 1, 17, 8, 8, 2, 30, 3)


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_a_windowed_epoch_holds_every_sample_once_and_few_shards_at_a_time(window: int) -> None:
    order, total = Windowed(LENGTHS, window), sum(LENGTHS)
    shard_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    epochs = [order(np.arange(epoch * total, (epoch + 1) * total), seed=3) for epoch in range(3)]
    for indices in epochs:
        assert sorted(indices.tolist()) == list(range(total))
        spans = {shard: np.flatnonzero(shard_of[indices] == shard) for shard in range(len(LENGTHS))}
        alive = [sum(span[0] <= place <= span[-1] for span in spans.values()) for place in range(total)]
        assert max(alive) <= window
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    assert (order(np.arange(total), seed=4) != epochs[0]).any()


def test_a_windowed_order_is_the_same_wherever_one_looks() -> None:
    order, total = Windowed(LENGTHS, 3), sum(LENGTHS)
    whole = order(np.arange(5 * total), seed=9)
    places = np.random.default_rng(0).permutation(5 * total)
    assert (Windowed(LENGTHS, 3)(places, seed=9) == whole[places]).all()
    assert (pickle.loads(pickle.dumps(order))(places, seed=9) == whole[places]).all()


@pytest.mark.parametrize("window", [1, 3])
def test_windowed_replacements_are_all_others_once_the_nearest_first(window: int) -> None:
    order, total = Windowed(LENGTHS, window), sum(LENGTHS)
    shard_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for position in (0, 20, 3 * total + 7):
        own = int(order(np.array([position]), seed=1)[0])
        others = list(order.replacements(position, 1))
        assert sorted([own, *others]) == list(range(total))
        near = {*shard_of[[own, *others[: LENGTHS[shard_of[own]] - 1]]]}
        assert len(near) <= window


def test_a_mixture_takes_from_each_set_in_its_share_and_in_its_order() -> None:
    lengths = (100, 10, 50_000)
    mixed = Mixed([Shuffled(n) for n in lengths], lengths, weights=(2, 1, 1))
    indices = mixed(np.arange(3 * Mixed.BLOCK), seed=5)
    sets = np.searchsorted(np.cumsum(lengths), indices, side="right")
    for block in sets.reshape(3, -1):
        assert np.bincount(block).tolist() == [Mixed.BLOCK // 2, Mixed.BLOCK // 4, Mixed.BLOCK // 4]
    counts = np.bincount(indices[sets == 0], minlength=100)
    assert counts.max() - counts.min() <= 1
    first = indices[sets == 2][:40_000]
    assert len(set(first.tolist())) > 0.9 * 40_000
    places = np.random.default_rng(0).permutation(len(indices))[:1000]
    assert (mixed(places, seed=5) == indices[places]).all()
    own = int(mixed(np.array([7]), seed=5)[0])
    others = list(islice(mixed.replacements(7, 5), 5))
    assert {int(np.searchsorted(np.cumsum(lengths), i, side="right")) for i in others} == {int(sets[7])}
    assert own not in others


def test_a_mixture_keeps_the_shards_of_its_sets_together() -> None:
    lengths = [100] * 50
    mixed = Mixed([Windowed(lengths, 4), Shuffled(7)], (5000, 7), weights=(1, 1))
    indices = mixed(np.arange(1000, 1600), seed=1)
    shards = {index // 100 for index in indices.tolist() if index < 5000}
    assert len(shards) <= 8
    again = pickle.loads(pickle.dumps(mixed))
    assert (again(np.arange(1000, 1600), seed=1) == indices).all()


@pytest.mark.parametrize("weights", [(1, 0), (1, -1), (1,), (1, float("nan")), (1, 1e-9)])
def test_weights_of_a_mixture_are_checked(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^weights: got"):
        Mixed([Shuffled(3), Shuffled(4)], (3, 4), weights)
