"""Which sample stands at which position of the endless training sequence, and its random numbers.

Everything is a pure function of (seed, position), so that a run may start anywhere, on any number of processes and
workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt64
from numpy.random.bit_generator import ISeedSequence

from dinotrain.data.permutation import key_of, permute


def sample_index(position: int | Int64[np.ndarray, "*n"], length: int, seed: int) -> Int64[np.ndarray, "*n"]:
    """Index of the sample at each position: every sample once in each epoch of `length` positions.

    Args:
        position: place in the training sequence, from 0, any shape.
        length: number of samples.
        seed: seed of the run; each epoch of each seed has its own order.
    """
    if length < 1:
        raise ValueError(f"length: got {length}, must be at least 1")
    places = np.asarray(position, np.int64)
    flat = places.reshape(-1)
    return permute(flat % length, length, key_of(seed, flat // length)).reshape(places.shape)


@runtime_checkable
class Order(Protocol):
    """Which sample stands at which position: a pure function of (position, seed), every sample once in each epoch."""

    def __call__(self, positions: Int64[np.ndarray, "n"], seed: int) -> Int64[np.ndarray, "n"]:
        """Indices of the samples at these positions."""
        ...

    def replacements(self, position: int, seed: int) -> Iterator[int]:
        """Indices of the samples to use when the one at a position is broken: the others, each once."""
        ...


class Shuffled:
    """All samples in one keyed permutation per epoch."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, positions: Int64[np.ndarray, "n"], seed: int) -> Int64[np.ndarray, "n"]:
        return sample_index(positions, self.length, seed)

    def replacements(self, position: int, seed: int) -> Iterator[int]:
        index = int(sample_index(position, self.length, seed))
        for offset in _others(self.length, key_of(seed, position, self.length)):
            yield (index + offset) % self.length


def _others(length: int, key: UInt64[np.ndarray, "1"]) -> Iterator[int]:
    """1 .. length - 1 in the permutation that the key names."""
    for attempt in range(length - 1):
        yield 1 + int(permute(np.array([attempt]), length - 1, key)[0])


class Windowed:
    """A few shards at a time are shuffled together, shards in another order every epoch.

    What is read within a while lies in few files, which may then come from far away or stay in a cache. Samples of a
    window, `window` shards that follow each other in the epoch's order of shards, are in one keyed permutation.

    Args:
        lengths: number of samples in each shard; sample i of the set is the i-th of all shards one after another.
        window: shards that are shuffled together.
    """

    def __init__(self, lengths: Sequence[int] | Int64[np.ndarray, "S"], window: int) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if window < 1:
            raise ValueError(f"window: got {window}, must be at least 1")
        if not len(self.lengths) or self.lengths.min() < 1:
            raise ValueError("lengths: got a shard without samples, or no shard; each must have at least 1")
        self.window = window
        self._firsts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._epoch = lru_cache(maxsize=2)(self._layout)

    def __getstate__(self) -> dict[str, object]:
        return {"lengths": self.lengths, "window": self.window}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def __call__(self, positions: Int64[np.ndarray, "n"], seed: int) -> Int64[np.ndarray, "n"]:
        places = np.asarray(positions, np.int64)
        indices = np.empty_like(places)
        for epoch in np.unique(places // self._firsts[-1]).tolist():
            layout = self._epoch(seed, epoch)
            here = np.flatnonzero(places // self._firsts[-1] == epoch)
            place = places[here] % self._firsts[-1]
            windows = np.searchsorted(layout.window_ends, place, side="right")
            for window in np.unique(windows).tolist():
                inside = windows == window
                first, last = layout.span(window)
                rank = permute(place[inside] - first, last - first, key_of(seed, epoch, window))
                indices[here[inside]] = self._sample(layout, first + rank)
        return indices

    def replacements(self, position: int, seed: int) -> Iterator[int]:
        """The others of the window, then those of the windows after it."""
        epoch, place = divmod(position, int(self._firsts[-1]))
        layout = self._epoch(seed, epoch)
        start = int(np.searchsorted(layout.window_ends, place, side="right"))
        for step in range(len(layout.window_ends)):
            first, last = layout.span((start + step) % len(layout.window_ends))
            others = range(first, last)
            if step == 0:
                offsets = _others(last - first, key_of(seed, position, last - first))
                others = (first + (place - first + offset) % (last - first) for offset in offsets)
            for other in others:
                yield int(self(np.array([epoch * self._firsts[-1] + other]), seed)[0])

    def _layout(self, seed: int, epoch: int) -> _Layout:
        shards = permute(np.arange(len(self.lengths)), len(self.lengths), key_of(seed, epoch, len(self.lengths)))
        ends = np.cumsum(self.lengths[shards])
        return _Layout(shards, ends, np.append(ends[self.window - 1 :: self.window], ends[-1:])[: self._windows])

    @property
    def _windows(self) -> int:
        return -(-len(self.lengths) // self.window)

    def _sample(self, layout: _Layout, place: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """Index of the sample at each place of an epoch in which nothing but the shards is permuted."""
        slot = np.searchsorted(layout.shard_ends, place, side="right")
        shard = layout.shards[slot]
        return self._firsts[shard] + place - (layout.shard_ends[slot] - self.lengths[shard])


class _Layout(NamedTuple):
    """The order of shards in an epoch."""

    shards: Int64[np.ndarray, "S"]
    shard_ends: Int64[np.ndarray, "S"]
    """Place after the last one of each of these shards."""
    window_ends: Int64[np.ndarray, "W"]

    def span(self, window: int) -> tuple[int, int]:
        """First place of a window, and the one after its last."""
        return int(self.window_ends[window - 1]) if window else 0, int(self.window_ends[window])


class Mixed:
    """Several sets in given shares, each in its own order and at its own pace through its epochs.

    Every 65,536 positions hold each set as often as its share says, rounded, in a keyed permutation.

    Args:
        orders: one per set.
        lengths: samples of each set; sample i of the mixture is the i-th of all sets one after another.
        weights: share of each set, in any unit.
    """

    BLOCK = 2**16

    def __init__(self, orders: Sequence[Order], lengths: Sequence[int], weights: Sequence[float]) -> None:
        shares = np.asarray(weights, np.float64)
        if len(shares) != len(orders) or not np.isfinite(shares).all() or shares.min(initial=1) <= 0:
            raise ValueError(f"weights: got {list(weights)}, must be {len(orders)} numbers above 0")
        self.orders = tuple(orders)
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        ends = np.rint(np.cumsum(shares / shares.sum()) * self.BLOCK).astype(np.int64)
        self._counts = np.diff(ends, prepend=0)
        if self._counts.min() < 1:
            raise ValueError(f"weights: got {list(weights)}, must not be less than 1/{self.BLOCK} of their sum")
        self._arguments = tuple(orders), tuple(lengths), tuple(weights)
        self._block = lru_cache(maxsize=2)(self._arranged)

    def __getstate__(self) -> tuple:
        return self._arguments

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def __call__(self, positions: Int64[np.ndarray, "n"], seed: int) -> Int64[np.ndarray, "n"]:
        sets, own = self._split(np.asarray(positions, np.int64), seed)
        indices = np.empty_like(own)
        for number in np.unique(sets).tolist():
            here = sets == number
            indices[here] = self._starts[number] + self.orders[number](own[here], _own_seed(seed, number))
        return indices

    def replacements(self, position: int, seed: int) -> Iterator[int]:
        """Others of the same set."""
        sets, own = self._split(np.array([position]), seed)
        number = int(sets[0])
        for index in self.orders[number].replacements(int(own[0]), _own_seed(seed, number)):
            yield int(self._starts[number]) + index

    def _split(
        self, positions: Int64[np.ndarray, "n"], seed: int
    ) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """Which set each position is taken from, and the position in that set's own sequence."""
        sets, own = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(positions // self.BLOCK).tolist():
            here = np.flatnonzero(positions // self.BLOCK == block)
            of_place, ranks = self._block(seed, block)
            sets[here] = of_place[positions[here] % self.BLOCK]
            own[here] = block * self._counts[sets[here]] + ranks[positions[here] % self.BLOCK]
        return sets, own

    def _arranged(self, seed: int, block: int) -> tuple[Int64[np.ndarray, "block"], Int64[np.ndarray, "block"]]:
        """Set of each place of a block, and how many places before it are of the same set.

        Each set is gone through in its own order, so that one that is read shard by shard stays so.
        """
        sets = np.repeat(np.arange(len(self._counts)), self._counts)
        sets = sets[permute(np.arange(self.BLOCK), self.BLOCK, key_of(seed, block, self.BLOCK))]
        ranks = np.empty_like(sets)
        for number, count in enumerate(self._counts):
            ranks[sets == number] = np.arange(count)
        return sets, ranks


def _own_seed(seed: int, number: int) -> int:
    """Seed of a set in a mixture: two that are alike must not go in step."""
    return int(key_of(seed, number)[0] >> np.uint64(1))


def positions(
    step: int, micro: int, rank: int, *, global_batch: int, micro_batch: int, world_size: int
) -> Int64[np.ndarray, "B"]:
    """Positions of one process's micro-batch.

    A step covers positions step * global_batch onwards; its micro-batches are contiguous blocks of
    world_size * micro_batch positions, of which each process takes its contiguous slice in order of rank.
    """
    start = step * global_batch + (micro * world_size + rank) * micro_batch
    return np.arange(start, start + micro_batch, dtype=np.int64)


def sample_rng(seed: int, position: int, stream: int = 0) -> np.random.Generator:
    """Random numbers of the sample at a position; another `stream` gives others, independent of these."""
    key = _Key(np.array([seed % 2**64, position], np.uint64))
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))  # pyright: ignore[reportArgumentType]


class _Key(ISeedSequence):
    """A key of Philox as it stands: given as `key`, NumPy would first ask the operating system for random bytes."""

    def __init__(self, key: UInt64[np.ndarray, "2"]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> UInt64[np.ndarray, "2"]:
        assert n_words == 2
        assert dtype is np.uint64
        return self._key
