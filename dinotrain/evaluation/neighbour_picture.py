"""Pictures of queries beside their nearest neighbours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.neighbours import Neighbours
from dinotrain.evaluation.outcome import Picture
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.tiles import GREEN, ORANGE, sheet, tile_of

QUERIES_SHOWN, NEIGHBOURS_SHOWN = 8, 8
VOTE = "right if the vote of all k neighbours gives their class"
NEAREST = "right if the nearest neighbour is of their class"


def neighbour_picture(
    setting: Setting,
    train: SplitFeatures,
    test: SplitFeatures,
    found: Neighbours,
    right: Bool[np.ndarray, "m"],
    *,
    by: str = VOTE,
) -> tuple[Picture, ...]:
    """A few test images, each before the training images that are nearest to it; in the main process alone.

    Args:
        found: neighbours of all test images among the training images.
        right: which test images got their class, or a neighbour of it.
        by: what has decided that, in words.
    """
    if not setting.world.main:
        return ()
    assert train.labels is not None
    assert test.labels is not None
    rows, names, classes = [], [], class_names(setting)
    for query in _chosen(right, setting.seed).tolist():
        first = int(setting.test.indices[test.rows[query]])
        row = [tile_of(setting.test.source, first, GREEN if right[query] else ORANGE)]
        for neighbour in found.index[query, :NEIGHBOURS_SHOWN].tolist():
            index = int(setting.train.indices[train.rows[neighbour]])
            color = GREEN if train.labels[neighbour] == test.labels[query] else ORANGE
            row.append(tile_of(setting.train.source, index, color))
        rows.append(row)
        names.append(classes[test.labels[query]])
    picture = Picture(
        name="neighbours",
        title="Nearest neighbours",
        note=f"Test images (left, with class), drawn at random among right (green) and wrong ones (orange): {by}. "
        "Beside each the training images nearest to it; green: of its class, orange: of another.",
        image=sheet(rows, apart=True, names=names),
    )
    return (picture,)


def _chosen(right: Bool[np.ndarray, "m"], seed: int) -> Int64[np.ndarray, "q"]:
    """Rows of right ones, then of wrong ones, half of each if there are enough."""
    order = np.random.default_rng([seed, len(right)]).permutation(len(right))
    hits, misses = order[right[order]], order[~right[order]]
    wrong = min(len(misses), max(QUERIES_SHOWN // 2, QUERIES_SHOWN - len(hits)))
    return np.concatenate([hits[: QUERIES_SHOWN - wrong], misses[:wrong]])
