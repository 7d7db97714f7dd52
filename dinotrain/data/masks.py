"""Block-wise masks: which patches of the global crops the student does not see."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float32, Int64

from dinotrain.data.order import sample_rng

_LEAST_PATCHES = 4  # of a block; only a request for less makes smaller ones
_LOG_ASPECT = math.log(1 / 0.3)  # height / width of a block is log-uniform in 0.3 .. 1 / 0.3
_TRIES = 10  # per block, before the mask is left as it is
_DRAWS = 4  # random numbers per try: area, aspect, top, left
_GROUP_STREAM = (
    3  # random streams of a position (0 is its crops'): 1 and 2 for its views, 3 for the group of its number
)


class MaskSampler:
    """Draws the masks of the global crops (BEiT, arXiv:2106.08254, algorithm 1; iBOT, arXiv:2111.07832, section 3.3).

    Everything is a function of (seed, position). The images of `group` consecutive positions share out the sizes of
    their masks: of their global crops the given share is masked, each with a ratio of its own equal part of the range.
    With the images of a process's batch as the group this is the law of the DINOv2 release.

    Args:
        grid: patches along each side of a global crop.
        probability: share of the global crops that are masked.
        ratio_min, ratio_max: range of the share of patches that are masked in a masked crop.
        group: images that share out the ratios.
        seed: seed of the run.
    """

    def __init__(
        self,
        *,
        grid: int,
        probability: float = 0.5,
        ratio_min: float = 0.1,
        ratio_max: float = 0.5,
        group: int,
        seed: int,
    ) -> None:
        for name, value in (("grid", grid), ("group", group)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, must be a whole number of at least 1")
        for name, value in (("probability", probability), ("ratio_min", ratio_min), ("ratio_max", ratio_max)):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"{name}: got {value!r}, must be a number in 0..1")
        if ratio_min > ratio_max:
            raise ValueError(f"ratio_min: got {ratio_min}, must be at most ratio_max, {ratio_max}")
        self._grid, self._group, self._seed = grid, group, seed
        self._ends = np.linspace(ratio_min, ratio_max, int(2 * group * probability) + 1)

    def __call__(self, positions: Int64[np.ndarray, "B"]) -> Bool[np.ndarray, "2 B N"]:
        """Masks of both global crops of the samples at these positions; True where a patch is masked."""
        cells = self._grid**2
        rows = bytearray()
        requests = self._requests(positions)
        for view in range(2):
            for position, request in zip(positions.tolist(), requests[view].tolist(), strict=True):
                bits = block_mask(request, self._grid, sample_rng(self._seed, position, 1 + view)) if request else 0
                rows += bits.to_bytes(-(-cells // 8), "little")
        packed = np.frombuffer(rows, np.uint8).reshape(2, len(positions), -(-cells // 8))
        return np.unpackbits(packed, axis=-1, count=cells, bitorder="little").astype(bool)

    def _requests(self, positions: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "2 B"]:
        """Number of patches to mask in each crop."""
        requests = np.zeros((2, len(positions)), np.int64)
        groups = positions // self._group
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            requests[:, here] = self._group_requests(group)[:, positions[here] % self._group]
        return requests

    def _group_requests(self, group: int) -> Int64[np.ndarray, "2 group"]:
        rng = sample_rng(self._seed, group, _GROUP_STREAM)
        ratios = np.zeros(2 * self._group)
        ratios[: len(self._ends) - 1] = rng.uniform(self._ends[:-1], self._ends[1:])
        return (self._grid**2 * rng.permutation(ratios)).astype(np.int64).reshape(2, self._group)


def block_mask(request: int, grid: int, rng: np.random.Generator) -> int:
    """Mask at most `request` cells of a square grid by adding blocks, until there are so many or no block fits.

    A block's area is uniform between 4 cells and what is still missing, but at most floor(grid / 2) * grid. One that
    would add nothing, or too much, is drawn anew, 10 times at most: the mask may stay a little smaller than asked for.

    Returns:
        The cells as the bits of a number, row by row, bit 0 for the first one.
    """
    masked, tries, draws = 0, 0, iter(())
    while (missing := request - masked.bit_count()) > 0 and tries < _TRIES:
        tries += 1
        numbers = next(draws, None)
        if numbers is None:
            draws = iter(rng.random((2 * _TRIES, _DRAWS)).tolist())
            numbers = next(draws)
        most = min(missing, grid // 2 * grid)
        block = _block(numbers, _LEAST_PATCHES + numbers[0] * (most - _LEAST_PATCHES), grid)
        if 0 < (block & ~masked).bit_count() <= most:
            masked |= block
            tries = 0
    return masked


def _block(numbers: list[float], area: float, grid: int) -> int:
    """Cells of a rectangle as bits; none where it would span the grid."""
    aspect = math.exp((2 * numbers[1] - 1) * _LOG_ASPECT)
    high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if high >= grid or wide >= grid or not high or not wide:
        return 0
    top, left = int(numbers[2] * (grid - high + 1)), int(numbers[3] * (grid - wide + 1))
    row = ((1 << wide) - 1) << (top * grid + left)
    # One bit at the start of each of `high` rows, times the row's bits: the rows one under another.
    return row * (((1 << high * grid) - 1) // ((1 << grid) - 1))


def mask_fields(masks: Bool[np.ndarray, "V B N"]) -> tuple[Int64[np.ndarray, "M"], Float32[np.ndarray, "M"]]:
    """What the losses need to know of masks: `mask_indices` and `mask_weights` of `dinotrain.data.batch.Batch`."""
    counts = masks.sum(-1).reshape(-1)
    weights = 1 / np.maximum(counts, 1)
    return np.flatnonzero(masks), np.repeat(weights, counts).astype(np.float32)
