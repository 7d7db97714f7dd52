"""Everything a task works with: a frozen backbone, images, and their features."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dinotrain.data.progress import progress
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import extracted
from dinotrain.evaluation.splits import Split
from dinotrain.evaluation.store import READABLE, FeatureStore

JOINED_IN_MEMORY = 2**32
"""Bytes up to which every process holds what it puts together itself."""
JOINED_AT_ONCE = 2**14
"""Rows."""


class SplitFeatures(NamedTuple):
    """Features of the images of a split that could be read."""

    values: Float[Tensor, "n D"]
    """On the CPU, in float32 or float16, maybe mapped from a file: not to be written to."""
    rows: Int64[np.ndarray, "n"]
    """Which of the split's images these are."""
    labels: Int64[np.ndarray, "n"] | None
    """Class numbers; None where the images have none."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What tasks are given.

    Args:
        train, test: where to learn and where to measure.
        validation: where to choose hyper-parameters; None to hold out a part of train.
        extra_tests: further images for the same classifiers, by name.
        seed: of everything random.
        batch: images per process and forward pass.
        threads: that read images; None for one per core.
        store: where features are kept.
        identity: of the network and its weights, for the store; None if they may change (features stay in memory).
        max_broken: share of a split's images that may be unreadable.
        check: called with every tick, by all processes together; may raise to end an evaluation.
    """

    backbone: Backbone
    world: World
    train: Split
    test: Split
    validation: Split | None = None
    extra_tests: Mapping[str, Split] = field(default_factory=dict)
    seed: int = 0
    batch: int = 128
    threads: int | None = None
    store: FeatureStore
    identity: str | None = None
    max_broken: float = 1.0
    check: Callable[[], object] = lambda: None

    unreadable: dict[str, int] = field(default_factory=dict, init=False)
    """Images that could not be read, by split, of those whose features were asked for."""

    def tick(self) -> None:
        """To be called in loops, equally often by all processes: says that things go on, and ends them if asked to."""
        self.world.at("evaluating", patient=True)
        self.check()

    def progress(self, what: str, total: int, unit: str = "images") -> AbstractContextManager[Callable[[int], None]]:
        """Shows how far a job has come: yields a function to call with how much is done."""
        return progress(what, total, unit)

    def features(self, split: Split, parts: Sequence[str] = ("cls_1",)) -> SplitFeatures:
        """One row per readable image, the parts (see `Backbone.pooled`) beside each other; alike on all processes."""
        store = self._own if self.identity is None else self.store
        arrays = store.arrays(self._about(split), parts, len(split), lambda missing: self._extracted(split, missing))
        readable = arrays[READABLE]
        self._count(split, readable)
        rows = np.flatnonzero(readable)
        whole = len(parts) == 1 and len(rows) == len(readable)
        values = (
            arrays[parts[0]] if whole else self._joined(store, split, parts, [arrays[part] for part in parts], rows)
        )
        labels = split.source.labels
        return SplitFeatures(_shared(values), rows, None if labels is None else labels[split.indices[rows]])

    def _joined(
        self, store: FeatureStore, split: Split, parts: Sequence[str], arrays: Sequence[np.ndarray], rows: np.ndarray
    ) -> np.ndarray:
        """The readable rows, the parts beside each other; where that is much, in a file of its own."""

        def some(start: int, stop: int) -> np.ndarray:
            return np.concatenate([array[rows[start:stop]] for array in arrays], axis=1)

        def pieces(names: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], Bool[Tensor, "n"]]]:
            for start in range(0, len(rows), JOINED_AT_ONCE):
                joined = torch.from_numpy(some(start, start + JOINED_AT_ONCE))
                self.world.at("evaluating", patient=True)
                yield dict.fromkeys(names, joined), torch.ones(len(joined), dtype=torch.bool)

        if sum(array[:1].nbytes for array in arrays) * len(rows) <= JOINED_IN_MEMORY:
            return some(0, len(rows))
        about = {**self._about(split), "joined": list(parts), "rows": hashlib.sha256(rows.data).hexdigest()}
        return store.arrays(about, ["joined"], len(rows), pieces)["joined"]

    def _count(self, split: Split, readable: Bool[np.ndarray, "n"]) -> None:
        missing = len(readable) - int(readable.sum())
        if missing == len(readable):
            raise UserError(f"data: none of the {split.name} images can be read")
        if missing:
            self.unreadable[split.name] = missing
        if missing > self.max_broken * len(readable):
            first = split.source.name(int(split.indices[np.flatnonzero(~readable)[0]]))
            raise UserError(
                f"data.max_broken: {missing} of the {len(readable)} {split.name} images can't be read, more than a "
                f"share of {self.max_broken:g}; the first: {first}"
            )

    @cached_property
    def _own(self) -> FeatureStore:
        """For weights that may change: in memory, as long as this is there."""
        return FeatureStore(None, self.world)

    def _about(self, split: Split) -> dict:
        preparation, network = self.backbone.preparation, self.backbone.network
        return {
            "version": 2,
            "weights": self.identity,
            "position_resize": network.position_resize,
            "images": split.identity,
            "preparation": [preparation.size, preparation.crop_fraction, preparation.mean, preparation.std],
            "precision": str(self.backbone.dtype),
        }

    def _extracted(self, split: Split, parts: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], Bool[Tensor, "n"]]]:
        half = self.backbone.dtype != torch.float32
        with self.progress(f"Features of the {split.name} images", len(split)) as report:
            done = 0
            for rows, readable in extracted(
                lambda images: self.backbone.pooled(images, parts),
                split.source,
                split.indices,
                preparation=self.backbone.preparation,
                world=self.world,
                batch=self.batch,
                threads=self.threads,
                check=self.check,
            ):
                done += len(readable)
                report(done)
                yield ({name: value.half() for name, value in rows.items()} if half else rows), readable


def _shared(values: np.ndarray) -> Tensor:
    """The array as a tensor, without a copy; torch can't mark it as not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)
