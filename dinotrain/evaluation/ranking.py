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

_MOST_AT_ONCE = 2**25
"""Similarities that are sorted at a time."""


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
    for rows, order in _orders(database, queries, world, check):
        relevant = labels[order] == truth[rows].to(world.device).unsqueeze(1)
        found.append(torch.stack([average_precisions(relevant), first_places(relevant).double()], dim=1).cpu())
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
    found = [order for _, order in _orders(database, queries, world, check)]
    empty = torch.empty(0, database.shape[0], dtype=torch.int64, device=world.device)
    return gather_rows(torch.cat(found) if found else empty).cpu().numpy()


def average_precisions(relevant: Bool[Tensor, "q n"]) -> Float64[Tensor, "q"]:
    """Mean precision at the places of what is relevant; NaN where nothing is.

    Args:
        relevant: by place in the ranking.
    """
    places = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    precision = relevant.cumsum(dim=1).double() / places
    return (precision * relevant).sum(dim=1) / relevant.sum(dim=1)


def first_places(relevant: Bool[Tensor, "q n"]) -> Int64[Tensor, "q"]:
    """Place of the first relevant one, from 0; -1 where nothing is relevant."""
    found, place = relevant.to(torch.uint8).max(dim=1)
    return torch.where(found > 0, place, -1)


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


def _orders(
    database: Tensor, queries: Tensor, world: World, check: Callable[[], object]
) -> Iterator[tuple[slice, Int64[Tensor, "q n"]]]:
    """Chunks of this process's queries, and the rows of the database for each of them, the most similar first."""
    size = max(min(_MOST_AT_ONCE // max(len(database), 1), 256), 1)
    for rows in chunks(len(queries), size, world):
        check()
        if rows is not None:
            part = rows_of(queries, rows, True, world.device)
            pieces = [
                part @ rows_of(database, slice(start, start + 32768), True, world.device).T
                for start in range(0, len(database), 32768)
            ]
            yield rows, torch.cat(pieces, dim=1).sort(dim=1, descending=True, stable=True).indices
