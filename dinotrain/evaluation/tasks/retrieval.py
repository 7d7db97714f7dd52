"""Retrieval: the training images ranked for every test image, by class or by the ground truth of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from dinotrain.data.arguments import whole
from dinotrain.data.sources.landmarks import Relevance
from dinotrain.errors import UserError
from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.landmark_scores import PROTOCOLS, landmark_scores
from dinotrain.evaluation.neighbour_picture import NEAREST, NEIGHBOURS_SHOWN, neighbour_picture
from dinotrain.evaluation.neighbours import Neighbours, nearest
from dinotrain.evaluation.outcome import Outcome, PerImage, Table
from dinotrain.evaluation.ranking import Ranked, ranked_by_class, rankings
from dinotrain.evaluation.setting import Setting, SplitFeatures


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Mean average precision of rankings by cosine similarity.

    Test images are the queries, training images the database. An image is relevant if it has the query's class. With
    a source of landmarks, its ground truth decides: easy, medium and hard (Radenović et al. 2018).

    Args:
        k: recall@k by class: share of queries with a relevant image among the first k; precision@k for landmarks.
    """

    k: Sequence[int] = (1, 5, 10)

    def __post_init__(self) -> None:
        if not isinstance(self.k, Sequence) or isinstance(self.k, str) or not self.k:
            raise ValueError(f"k: got {self.k!r}, expected a list such as [1, 5, 10]")
        object.__setattr__(self, "k", tuple(sorted({whole("k", value, 1) for value in self.k})))

    def run(self, setting: Setting) -> Outcome:
        """Rank all training images for every test image."""
        truth = getattr(setting.train.source, "ground_truth", None)
        classes = class_names(setting) if truth is None else ()
        database, queries = setting.features(setting.train), setting.features(setting.test)
        if truth is None:
            return self._by_class(setting, database, queries, classes)
        return self._by_ground_truth(setting, database, queries, truth)

    def _by_class(
        self, setting: Setting, database: SplitFeatures, queries: SplitFeatures, classes: Sequence[str]
    ) -> Outcome:
        assert database.labels is not None
        assert queries.labels is not None
        ranked = ranked_by_class(
            database.values,
            database.labels,
            queries.values,
            queries.labels,
            world=setting.world,
            check=setting.tick,
        )
        valid = ranked.first >= 0
        if not valid.any():
            raise UserError("data: no training image has the class of a test image, so there is nothing to find")
        precision = ranked.average_precision[valid]
        numbers = {"map": 100 * float(precision.mean())}
        numbers |= {f"recall_at_{k}": 100 * float((ranked.first[valid] < k).mean()) for k in self.k}
        first, lost = ranked.first == 0, int((~valid).sum())
        notes = (f"{lost} test images of classes that no training image has were left out",) if lost else ()
        found = self._nearest(setting, database, queries)
        return Outcome(
            numbers=numbers,
            protocol=self._protocol(database, queries) | {"relevance": "same class"},
            per_image=PerImage(kind="mean", rows=queries.rows[valid], arrays={"value": precision.astype(np.float32)}),
            notes=notes + self._beyond(database),
            tables=(_per_class(ranked, queries.labels, classes),),
            pictures=neighbour_picture(setting, database, queries, found, first, by=NEAREST),
        )

    def _nearest(self, setting: Setting, database: SplitFeatures, queries: SplitFeatures) -> Neighbours:
        return nearest(database.values, queries.values, NEIGHBOURS_SHOWN, world=setting.world, check=setting.tick)

    def _by_ground_truth(
        self, setting: Setting, database: SplitFeatures, queries: SplitFeatures, truth: Sequence[Relevance]
    ) -> Outcome:
        order = rankings(database.values, queries.values, world=setting.world, check=setting.tick)
        numbers_of_images = setting.train.indices[database.rows]
        asked = setting.test.indices[queries.rows]
        scores = {
            name: landmark_scores(numbers_of_images[order], [truth[query] for query in asked], name, self.k)
            for name in PROTOCOLS
        }
        medium = scores["medium"].average_precision
        if not np.isfinite(medium).any():
            raise UserError("data: no query has an easy or hard image in the database, so there is nothing to measure")
        means: dict[str, float] = {}
        precisions: dict[str, float] = {}
        for name, found in scores.items():
            valid = np.isfinite(found.average_precision)
            if valid.any():
                means[f"map_{name}"] = 100 * float(found.average_precision[valid].mean())
                at_k = 100 * found.precision[valid].mean(axis=0)
                precisions |= {f"mp_at_{k}_{name}": float(value) for k, value in zip(self.k, at_k)}
        valid = np.isfinite(medium)
        return Outcome(
            numbers=means | precisions,
            protocol=self._protocol(database, queries) | {"relevance": "revisited ground truth (easy, medium, hard)"},
            per_image=PerImage(
                kind="mean", rows=queries.rows[valid], arrays={"value": medium[valid].astype(np.float32)}
            ),
            notes=_missing(setting, database) + self._beyond(database),
        )

    def _beyond(self, database: SplitFeatures) -> tuple[str, ...]:
        count = len(database.rows)
        beyond = [str(k) for k in self.k if k > count]
        what = f"k = {', '.join(beyond)} is more than the {count} images of the database: all of them count"
        return (what,) if beyond else ()

    def _protocol(self, database: SplitFeatures, queries: SplitFeatures) -> dict[str, Any]:
        return {
            "features": "CLS token of the last block, length 1",
            "ranking": "cosine similarity, the whole database",
            "k": list(self.k),
            "database": len(database.rows),
            "queries": len(queries.rows),
        }


def _missing(setting: Setting, database: SplitFeatures) -> tuple[str, ...]:
    count = len(setting.train.source)
    lost = count - len(database.rows)
    return (f"{lost} of the {count} database images are missing; they count as not there",) if lost else ()


def _per_class(ranked: Ranked, labels: Int64[np.ndarray, "m"], classes: Sequence[str]) -> Table:
    rows = []
    for number in np.unique(labels):
        own = (labels == number) & (ranked.first >= 0)
        if own.any():
            mean, first = ranked.average_precision[own].mean(), (ranked.first[own] == 0).mean()
            rows.append((classes[number], str(int(own.sum())), f"{100 * mean:.1f}", f"{100 * first:.1f}"))
    rows.sort(key=lambda row: float(row[2]))
    return Table(
        title="By class",
        note="Classes in ascending order of their mean average precision, in percent.",
        columns=("class", "queries", "mAP", "recall@1"),
        rows=tuple(rows),
    )
