"""Rankings of a whole database by similarity, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from dinotrain.distributed.collectives import gather_rows
from dinotrain.distributed.world import World
from dinotrain.evaluation.neighbours import chunks, rows_of
from dinotrain.evaluation.room import room

_MOST_AT_ONCE = {"cpu": 2**21, "cuda": 2**25}
"""Similarities that are ranked at a time; on a CPU as many as its caches hold."""
_MOST_HELD = {"cpu": 2**27, "cuda": 2**29}
"""Similarities that are kept: for so many at once, a database that does not fit on the device is moved there."""
_MOST_QUERIES = 256
_BLOCK = 32768
"""Rows of the database that are multiplied at a time."""
_LAST = torch.iinfo(torch.int64).max


class Ranked(NamedTuple):
    """How well each query finds what is of its class."""

    average_precision: Float64[np.ndarray, "m"]
    """In 0..1; NaN where the database has nothing of the query's class."""
    first: Int64[np.ndarray, "m"]
    """Place of the first one of its class, from 0; -1 where there is none."""


@torch.no_grad()
def ranked_by_class(
    database: Float[Tensor, "n D"],
    database_labels: Int64[np.ndarray, "n"],
    queries: Float[Tensor, "m D"],
    query_labels: Int64[np.ndarray, "m"],
    *,
    world: World,
    check: Callable[[], object] = lambda: None,
) -> Ranked:
    """Average precision over the full ranking by cosine similarity; what has the query's class is relevant.

    Without interpolation: the mean of the precision at the place of each relevant one. The processes share the
    queries, and all get all results.

    Args:
        check: called before each chunk of queries, by all processes equally often.
    """
    labels, truth = torch.from_numpy(database_labels).to(world.device), torch.from_numpy(query_labels)
    found = []
    for rows, similarity in _similarities(database, queries, world, check):
        places, counts = places_of(similarity, labels == truth[rows].to(world.device).unsqueeze(1))
        first = torch.where(counts > 0, places[:, :1].sum(dim=1), -1)
        found.append(torch.stack([average_precisions(places, counts), first.double()], dim=1).cpu())
    local = torch.cat(found) if found else torch.empty(0, 2, dtype=torch.float64)
    table = gather_rows(local.to(world.device)).cpu().numpy()
    return Ranked(table[:, 0].copy(), table[:, 1].astype(np.int64))


@torch.no_grad()
def rankings(
    database: Float[Tensor, "n D"],
    queries: Float[Tensor, "m D"],
    *,
    world: World,
    check: Callable[[], object] = lambda: None,
) -> Int64[np.ndarray, "m n"]:
    """For each of a few queries the rows of the database, the most similar first; on all processes."""
    found = [
        similarity.sort(dim=1, descending=True, stable=True).indices
        for _, similarity in _similarities(database, queries, world, check)
    ]
    empty = torch.empty(0, database.shape[0], dtype=torch.int64, device=world.device)
    return gather_rows(torch.cat(found) if found else empty).cpu().numpy()


def places_of(
    similarity: Float[Tensor, "q n"], relevant: Bool[Tensor, "q n"]
) -> tuple[Int64[Tensor, "q r"], Int64[Tensor, "q"]]:
    """Places of what is relevant when all is ranked by similarity, from 0, ascending; of equals, the first is first.

    Only the relevant ones are sorted, all others counted between them: much less work than a whole ranking.

    Returns:
        Places, where a query has fewer than others followed by n, and how many each query has.
    """
    keys = _keys(similarity)
    counts = relevant.sum(dim=1)
    query, row = relevant.nonzero(as_tuple=True)
    number = torch.arange(len(query), device=keys.device) - (counts.cumsum(dim=0) - counts)[query]
    width = int(counts.max()) if len(counts) else 0
    table = torch.full((len(keys), width), _LAST, device=keys.device)
    table[query, number] = keys[query, row]
    table = table.sort(dim=1).values
    # How many of the relevant ones are not after it: the next one, and all after that, have it before them.
    passed = torch.searchsorted(table, keys, right=True)
    passed += torch.arange(len(keys), device=keys.device).unsqueeze(1) * (width + 1)
    between = torch.bincount(passed.flatten(), minlength=len(keys) * (width + 1)).view(len(keys), width + 1)
    return between[:, :width].cumsum(dim=1), counts


def _keys(similarity: Float[Tensor, "q n"]) -> Int64[Tensor, "q n"]:
    """Numbers in the order of the ranking: by similarity, descending, then by column."""
    # Of floats, the bits stand in order but for those below zero. Adding zero makes -0 to 0.
    bits = (similarity + 0.0).view(torch.int32)
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising.long().bitwise_not_() << 32) + torch.arange(similarity.shape[1], device=similarity.device)


def average_precisions(places: Int64[Tensor, "q r"], counts: Int64[Tensor, "q"]) -> Float64[Tensor, "q"]:
    """Mean precision at the places of what is relevant; NaN where nothing is.

    Args:
        places, counts: see `places_of`.
    """
    number = torch.arange(1, places.shape[1] + 1, device=places.device)
    precision = number.double() / (places + 1)
    return precision.masked_fill(number > counts.unsqueeze(1), 0.0).sum(dim=1) / counts


def without_junk(
    order: Int64[np.ndarray, "n"], positive: Int64[np.ndarray, "a"], junk: Int64[np.ndarray, "b"]
) -> Int64[np.ndarray, "p"]:
    """Places, from 0, of the positive ones in a ranking from which junk was taken out first."""
    is_junk = np.isin(order, junk)
    places = np.arange(len(order)) - np.cumsum(is_junk)
    return places[np.isin(order, positive) & ~is_junk]


def trapezoidal_average_precision(places: Int64[np.ndarray, "p"]) -> float:
    """Area under the precision-recall curve, in 0..1, with straight lines between its points.

    As the Oxford and Paris benchmarks have it (Philbin et al. 2007; Radenović et al. 2018): precision before and after
    each positive one, averaged.

    Args:
        places: of the positives in the ranking, from 0, ascending; at least one.
    """
    before = np.arange(len(places))
    low = np.where(places == 0, 1.0, before / np.maximum(places, 1))
    high = (before + 1) / (places + 1)
    return float((low + high).mean() / 2)


def precision_at(places: Int64[np.ndarray, "p"], k: int) -> float:
    """Share of positives among the first k, or among those up to the last positive where that comes sooner.

    Args:
        places: of the positives in the ranking, from 0; at least one.
    """
    within = min(int(places.max()) + 1, k)
    return float((places < within).sum() / within)


def _similarities(
    database: Tensor, queries: Tensor, world: World, check: Callable[[], object]
) -> Iterator[tuple[slice, Float[Tensor, "q n"]]]:
    """Some of this process's queries after others, and how similar the rows of the database are to each of them."""
    count = max(len(database), 1)
    size = max(min(_MOST_HELD[world.device.type] // count, _MOST_QUERIES), 1)
    step = max(min(_MOST_AT_ONCE[world.device.type] // count, size), 1)
    near, unit = _nearby(database, world)
    for rows in chunks(len(queries), size, world):
        similarity = torch.empty(0, len(database), device=world.device)
        if rows is not None:
            part = rows_of(queries, rows, True, world.device)
            similarity = torch.empty(len(part), len(database), device=world.device)
            for block in (slice(start, start + _BLOCK) for start in range(0, len(database), _BLOCK)):
                # Written in place: two of this size may be more than the device has.
                similarity[:, block] = part @ (near[block] if unit else rows_of(near, block, True, world.device)).T
        for start in range(0, size, step):
            check()
            if rows is not None and start < len(similarity):
                found = similarity[start : start + step]
                yield slice(rows.start + start, rows.start + start + len(found)), found


def _nearby(database: Tensor, world: World) -> tuple[Tensor, bool]:
    """The database on the device as far as it fits there, and whether its rows are scaled to length 1 already."""
    free = room(world.device, world.local_size)
    if database.numel() * 4 <= free:
        near = torch.empty(database.shape, device=world.device)
        for block in (slice(start, start + _BLOCK) for start in range(0, len(database), _BLOCK)):
            near[block] = rows_of(database, block, True, world.device)
        return near, True
    return (database.to(world.device) if database.nbytes <= free else database), False
