"""A conversion in numbers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from dinotrain.data.source import Source
from dinotrain.preparing.record import ShardRecord
from dinotrain.preparing.shard import PATTERN

EDGES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
"""Bounds of the classes of sizes in pixels, of the shorter side."""
PERCENTILES = {"min": 0, "5%": 5, "25%": 25, "median": 50, "75%": 75, "95%": 95, "max": 100}

COUNTS = (
    *("looked_at", "kept", "shrunk", "failed"),
    *("duplicates_exact", "duplicates_near", "duplicates_of_another_class"),
)


class Summary:
    """Adds up the records of shards.

    Args:
        source: what was converted.
        labels: whether class numbers were written.
    """

    def __init__(self, source: Source, *, labels: bool) -> None:
        self._labels = source.labels if labels else None
        self._source = source
        self._counts = dict.fromkeys(COUNTS, 0)
        self._bytes: Counter[str] = Counter(originals=0, images=0, shards=0)
        self._shards: list[dict[str, Any]] = []
        self._formats = {"in": Counter[str](), "out": Counter[str]()}
        self._sides = {key: Counter[int]() for key in ("width_in", "height_in", "short_in")}
        self._sides |= {key: Counter[int]() for key in ("width_out", "height_out", "short_out")}
        self._classes: Counter[int] = Counter()

    def add(self, record: ShardRecord) -> None:
        """Take one more shard."""
        images, dropped = record.images, record.duplicates
        if record.tar_bytes:
            name = PATTERN.format(len(self._shards))
            self._shards.append({"name": name, "images": len(images), "bytes": record.tar_bytes})
        self._counts["looked_at"] += record.end - record.begin
        self._counts["kept"] += len(images)
        self._counts["shrunk"] += int((images["size_in"] != images["size_out"]).any(axis=1).sum())
        self._counts["failed"] += len(record.failures)
        self._counts["duplicates_exact"] += int(dropped["exact"].sum())
        self._counts["duplicates_near"] += int((~dropped["exact"]).sum())
        self._bytes.update(originals=record.bytes_in, images=record.bytes_kept, shards=record.tar_bytes)
        for way in ("in", "out"):
            self._formats[way].update({key.decode(): count for key, count in _counted(images[f"format_{way}"])})
            width, height = images[f"size_{way}"].T
            for name, values in (("width", width), ("height", height), ("short", np.minimum(width, height))):
                self._sides[f"{name}_{way}"].update(dict(_counted(values)))
        if self._labels is not None:
            labels = self._labels
            self._classes.update(dict(_counted(labels[images["index"]])))
            differ = labels[dropped["index"]] != labels[dropped["kept"]]
            self._counts["duplicates_of_another_class"] += int(differ.sum())

    def to_dict(self) -> dict[str, Any]:
        """What goes into `summary.json`."""
        return {
            "counts": {**self._counts, "left_out_of_the_listing": len(self._source.left_out)},
            "bytes": dict(self._bytes),
            "shards": self._shards,
            "formats_in": dict(self._formats["in"].most_common()),
            "formats_out": dict(self._formats["out"].most_common()),
            "sizes": {key: percentiles(sides) for key, sides in self._sides.items()},
            "short_side_histogram": {way: histogram(self._sides[f"short_{way}"]) for way in ("in", "out")},
            "classes": list(self._names),
            "class_counts": [self._classes[number] for number in range(len(self._names))],
        }

    @property
    def _names(self) -> tuple[str, ...]:
        """Of the classes, by number; none without labels."""
        if self._labels is None:
            return ()
        return self._source.classes or tuple(map(str, range(max(self._classes, default=-1) + 1)))


def percentiles(sides: Counter[int]) -> dict[str, int]:
    """Of lengths in pixels, by nearest rank."""
    if not sides:
        return {}
    lengths = np.array(sorted(sides))
    ends = np.cumsum([sides[length] for length in lengths.tolist()])
    ranks = [np.ceil(share / 100 * ends[-1]).clip(1) for share in PERCENTILES.values()]
    return dict(zip(PERCENTILES, lengths[np.searchsorted(ends, ranks)].tolist()))


def histogram(sides: Counter[int]) -> dict[str, int]:
    """Number of images by the length of their shorter side in pixels; empty ends are left out."""
    bounds = [0, *EDGES, None]
    counts: dict[str, int] = {}
    for low, high in pairwise(bounds):
        name = f"{low}-{high - 1}" if high else f"{low} and more"
        counts[name] = sum(n for side, n in sides.items() if side >= (low or 0) and (high is None or side < high))
    filled = [place for place, count in enumerate(counts.values()) if count]
    return dict(list(counts.items())[filled[0] : filled[-1] + 1]) if filled else {}


def _counted(values: np.ndarray) -> list[tuple[Any, int]]:
    found, counts = np.unique(values, return_counts=True)
    return list(zip(found.tolist(), counts.tolist()))
