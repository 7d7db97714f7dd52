"""Pictures of queries beside their nearest neighbours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from dinotrain.evaluation.neighbours import Neighbours
from dinotrain.evaluation.outcome import Picture
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.tiles import GREEN, RED, sheet, tile

QUERIES_SHOWN, NEIGHBOURS_SHOWN = 8, 8


def neighbour_picture(
    setting: Setting,
    train: SplitFeatures,
    test: SplitFeatures,
    found: Neighbours,
    right: Bool[np.ndarray, "m"],
) -> tuple[Picture, ...]:
    """A few test images, each before the training images that are nearest to it; in the main process alone.

    Args:
        found: neighbours of all test images among the training images.
        right: which test images got their class, or a neighbour of it.
    """
    if not setting.world.main:
        return ()
    assert train.labels is not None
    assert test.labels is not None
    rows = []
    for query in _chosen(right, setting.seed).tolist():
        first = setting.test.source.image(int(setting.test.indices[test.rows[query]]))
        row = [tile(first, GREEN if right[query] else RED)]
        for neighbour in found.index[query, :NEIGHBOURS_SHOWN].tolist():
            image = setting.train.source.image(int(setting.train.indices[train.rows[neighbour]]))
            row.append(tile(image, GREEN if train.labels[neighbour] == test.labels[query] else RED))
        rows.append(row)
    picture = Picture(
        name="neighbours",
        title="Nearest neighbours",
        note="Test images (left), drawn at random among right (green) and wrong ones (red), and the training images "
        "nearest to them; green: of the same class.",
        image=sheet(rows, apart=True),
    )
    return (picture,)


def _chosen(right: Bool[np.ndarray, "m"], seed: int) -> Int64[np.ndarray, "q"]:
    """Rows of right ones, then of wrong ones, half of each if there are enough."""
    order = np.random.default_rng([seed, len(right)]).permutation(len(right))
    hits, misses = order[right[order]], order[~right[order]]
    wrong = min(len(misses), max(QUERIES_SHOWN // 2, QUERIES_SHOWN - len(hits)))
    return np.concatenate([hits[: QUERIES_SHOWN - wrong], misses[:wrong]])
