"""Block masks against the statistics of the original implementation; how they depend on seed and position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import Golden, load

from dinotrain.data.masks import MaskSampler, block_mask, mask_fields
from dinotrain.data.order import sample_rng

_BATCHES = 150
_RUNS = load("masks_stats").texts("runs")


def _masks(golden: Golden, run: str) -> np.ndarray:
    """Masks of many batches, bool [batches, crops, h, w]."""
    grid, group = golden.size(f"{run}/cfg/grid"), golden.size(f"{run}/cfg/images_per_batch")
    low, high = golden.arrays[f"{run}/cfg/ratio"].tolist()
    probability = golden.number(f"{run}/cfg/mask_probability")
    sampler = MaskSampler(grid=grid, probability=probability, ratio_min=low, ratio_max=high, group=group, seed=0)
    masks = sampler(np.arange(_BATCHES * group)).reshape(2, _BATCHES, group, grid, grid)
    return np.moveaxis(masks, 0, 1).reshape(_BATCHES, 2 * group, grid, grid)


def _close(ours: Any, theirs: Any, std: Any, n_ours: int, n_theirs: int) -> None:
    """Two means of samples with the same standard deviation."""
    error = np.maximum(std, 1e-3) * np.sqrt(1 / n_ours + 1 / n_theirs)
    assert (np.abs(ours - theirs) < 5 * error).all()


@pytest.mark.parametrize("run", _RUNS)
def test_sizes_are_those_of_the_original(golden, run: str) -> None:
    numbers = golden("masks_stats")
    counts = _masks(numbers, run).sum((2, 3))
    batches = numbers.size(f"{run}/cfg/n_batches")
    assert ((counts > 0).sum(1) == numbers.arrays[f"{run}/n_nonempty_samples_per_batch/mean_std_min_max"][0]).all()
    assert (counts.sum(1) <= numbers.arrays[f"{run}/upperbound/values"][0]).all()
    mean, std = numbers.arrays[f"{run}/n_masked_patches_per_batch/mean_std_min_max"][:2]
    _close(counts.sum(1).mean(), mean, std, _BATCHES, batches)
    ranked = -np.sort(-counts, 1)
    theirs, spread = (numbers.arrays[f"{run}/{kind}_count_by_rank_desc"] for kind in ("mean", "std"))
    _close(ranked.mean(0)[: len(theirs)], theirs, spread, _BATCHES, batches)
    _close(ranked.std(0)[: len(theirs)], spread, spread, _BATCHES, batches)
    fractions = counts[counts > 0] / numbers.size(f"{run}/cfg/n_tokens")
    quantiles = np.quantile(fractions, numbers.arrays["quantile_levels"])
    assert np.abs(quantiles - numbers.arrays[f"{run}/fraction_among_masked/quantiles"]).max() < 0.02


@pytest.mark.parametrize("run", _RUNS)
def test_places_are_those_of_the_original(golden, run: str) -> None:
    numbers = golden("masks_stats")
    masks = _masks(numbers, run)
    masked = masks[masks.any((2, 3))]
    total = numbers.size(f"{run}/n_masked_samples_total")
    theirs = numbers.arrays[f"{run}/cell_frequency_among_masked"]
    _close(masked.mean(0), theirs, np.sqrt(theirs * (1 - theirs)), len(masked), total)
    theirs = numbers.arrays[f"{run}/row_masked_frequency"]
    _close(masks.any((2, 3)).mean(0), theirs, np.full(len(theirs), 0.5), _BATCHES, numbers.size(f"{run}/cfg/n_batches"))
    both = (masked[:, 1:] & masked[:, :-1]).sum((1, 2)) + (masked[:, :, 1:] & masked[:, :, :-1]).sum((1, 2))
    inside = np.full(masked.shape[1:], 4)
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        edge -= 1
    neighbours = (masked * inside).sum((1, 2))
    share = 2 * both.sum() / neighbours.sum()
    error = (2 * both - share * neighbours).std() / neighbours.mean() / np.sqrt(len(masked))
    assert abs(share - numbers.number(f"{run}/neighbour4_masked_fraction")) < 5 * error


@pytest.mark.parametrize("run", _RUNS)
def test_requests_are_met_as_often_as_in_the_original(golden, run: str) -> None:
    numbers = golden("masks_stats")
    grid, draws = numbers.size(f"{run}/cfg/grid"), 400
    for request, mean, std, _, _, exact, _ in numbers.arrays[f"{run}/generator_fixed_request"]:
        counts = [block_mask(int(request), grid, sample_rng(1, i)).bit_count() for i in range(draws)]
        assert max(counts) <= request
        assert min(counts) > 0
        _close(np.mean(counts), mean, std, draws, 1500)
        _close(np.mean(np.equal(counts, request)), exact, np.sqrt(exact * (1 - exact)), draws, 1500)


def test_masks_depend_on_seed_and_position_alone() -> None:
    sampler = MaskSampler(grid=7, group=6, seed=3)
    masks = sampler(np.arange(100))
    places = np.array([57, 3, 99, 4, 3])
    assert (sampler(places) == masks[:, places]).all()
    assert (MaskSampler(grid=7, group=6, seed=3)(np.arange(40, 60)) == masks[:, 40:60]).all()
    assert (MaskSampler(grid=7, group=6, seed=4)(np.arange(100)) != masks).any()
    assert (masks[0] != masks[1]).any()
    assert ((masks.any(-1).reshape(2, -1)[:, :96].reshape(2, 16, 6).sum((0, 2))) == 6).all()


@pytest.mark.parametrize("grid", [1, 2, 3, 8])
def test_small_grids_and_groups(grid: int) -> None:
    masks = MaskSampler(grid=grid, probability=1.0, ratio_min=0.5, ratio_max=1.0, group=1, seed=0)(np.arange(50))
    assert masks.shape == (2, 50, grid**2)
    assert masks.any() == (grid > 1)  # a block never spans the grid


def test_no_masks() -> None:
    assert not MaskSampler(grid=8, probability=0, group=4, seed=0)(np.arange(10)).any()
    assert MaskSampler(grid=8, group=4, seed=0)(np.arange(0)).shape == (2, 0, 64)


def test_fields_for_the_losses() -> None:
    masks = np.array([[[1, 0, 1, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 0]]], bool)
    indices, weights = mask_fields(masks)
    assert indices.dtype == np.int64
    assert indices.tolist() == [0, 2, 8, 9, 10, 11, 14]
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 1.0]
    assert len(mask_fields(np.zeros((2, 3, 4), bool))[0]) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("grid", 0), ("group", 0), ("probability", 1.5), ("ratio_min", 0.9), ("ratio_max", 1.1), ("ratio_min", -0.1)],
)
def test_bad_arguments(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"grid": 8, "group": 4, "seed": 0, name: value}
    with pytest.raises(ValueError, match=rf"^(?s:.*){name}.*: got .*{value}.*, must be [^\n]*$"):
        MaskSampler(**arguments)
