"""k-means on features of the test images, held against their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64

from dinotrain.data.arguments import whole
from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.cluster_scores import Agreement, agreement
from dinotrain.evaluation.finite import finite
from dinotrain.evaluation.kmeans import Clustering, kmeans
from dinotrain.evaluation.outcome import Outcome, PerImage, Picture, Table
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.tiles import GREEN, GREY, ORANGE, sheet, tile_of

_SHOWN_CLUSTERS, _SHOWN_IMAGES = 10, 10


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Accuracy, NMI and adjusted Rand index of clusters of the test images, which are found without any label.

    Args:
        clusters: how many; None for as many as there are classes among the images.
        restarts: the best of so many runs by inertia is taken.
        iterations: of each run, at most.
        max_images: as many of the test images are drawn at random, if there are more.
    """

    clusters: int | None = None
    restarts: int = 5
    iterations: int = 100
    max_images: int = 50_000

    def __post_init__(self) -> None:
        if self.clusters is not None:
            whole("clusters", self.clusters, 2)
        whole("restarts", self.restarts, 1)
        whole("iterations", self.iterations, 1)
        whole("max_images", self.max_images, 2)

    def run(self, setting: Setting) -> Outcome:
        """Cluster the test images."""
        classes = class_names(setting)
        test = self._drawn(setting)
        assert test.labels is not None
        wanted = self.clusters or len(np.unique(test.labels))
        k = min(wanted, len(test.rows))
        notes = (f"{wanted} clusters are more than the {k} images: one for each",) if k < wanted else ()
        found = kmeans(
            F.normalize(finite(test.values, torch.device("cpu")), dim=1),
            k,
            world=setting.world,
            restarts=self.restarts,
            iterations=self.iterations,
            seed=setting.seed,
            check=setting.tick,
        )
        clusters = found.labels.numpy()
        match = agreement(clusters, test.labels, k=k, classes=len(classes))
        right = match.meaning[clusters] == test.labels
        return Outcome(
            numbers={"accuracy": match.accuracy, "nmi": match.nmi, "ari": match.ari},
            protocol=self._protocol(setting, k, len(test.rows), found),
            per_image=PerImage(kind="mean", rows=test.rows, arrays={"value": right.astype(np.float32)}),
            notes=notes,
            tables=(_table(clusters, test.labels, match, classes),),
            pictures=_picture(setting, test, found, match, classes) if setting.world.main else (),
        )

    def _drawn(self, setting: Setting) -> SplitFeatures:
        test = setting.features(setting.test)
        assert test.labels is not None
        count = len(test.rows)
        if count <= self.max_images:
            return test
        drawn = np.sort(np.random.default_rng([setting.seed, count]).permutation(count)[: self.max_images])
        return SplitFeatures(test.values[torch.from_numpy(drawn)], test.rows[drawn], test.labels[drawn])

    def _protocol(self, setting: Setting, k: int, images: int, found: Clustering) -> dict[str, Any]:
        return {
            "features": "CLS token of the last block, length 1",
            "images": f"{images} of the test images, without labels",
            "clusters": k,
            "start": "k-means++",
            "restarts": self.restarts,
            "iterations": self.iterations,
            "inertia": found.inertia,
            "matching": "Hungarian, clusters to classes one to one",
            "seed": setting.seed,
        }


def _table(
    clusters: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "n"], match: Agreement, classes: Sequence[str]
) -> Table:
    rows = []
    for number, meaning in enumerate(match.meaning.tolist()):
        own = np.bincount(labels[clusters == number], minlength=len(classes))
        most = int(own.argmax())
        name = classes[meaning] if meaning >= 0 else "none"
        share = own[meaning] / max(own.sum(), 1) if meaning >= 0 else 0.0
        often = f"{classes[most]} ({100 * own[most] / max(own.sum(), 1):.0f} %)"
        rows.append((str(number), str(int(own.sum())), name, f"{100 * share:.1f}", often))
    return Table(
        title="Clusters",
        note="The class that each cluster is matched with, one to one, and the one that most of its images have.",
        columns=("cluster", "images", "stands for", "% of that class", "most often"),
        rows=tuple(rows),
    )


def _picture(
    setting: Setting, test: SplitFeatures, found: Clustering, match: Agreement, classes: Sequence[str]
) -> tuple[Picture, ...]:
    assert test.labels is not None
    rows, names, clusters = [], [], found.labels.numpy()
    for number, meaning in list(enumerate(match.meaning.tolist()))[:_SHOWN_CLUSTERS]:
        own = np.flatnonzero(clusters == number)
        drawn = np.random.default_rng([setting.seed, number, len(own)]).permutation(own)[:_SHOWN_IMAGES]
        row = []
        for member in drawn.tolist():
            index = int(setting.test.indices[test.rows[member]])
            color = GREY if meaning < 0 else GREEN if test.labels[member] == meaning else ORANGE
            row.append(tile_of(setting.test.source, index, color))
        if row:
            rows.append(row)
            names.append(classes[meaning] if meaning >= 0 else "no class")
    picture = Picture(
        name="clusters",
        title="Clusters",
        note="Images drawn at random from each cluster (a row), and the class that it stands for; green: of that one, "
        "orange: of another, grey: the cluster stands for none.",
        image=sheet(rows, names=names),
    )
    return (picture,)
