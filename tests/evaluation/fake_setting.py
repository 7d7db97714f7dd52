"""A setting without a network: small pictures of a few classes, and features that cluster by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tiny
import torch
from torch import Tensor

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.splits import Split, whole
from dinotrain.evaluation.store import FeatureStore


class Pictures(Source):
    """Pictures of one colour per class, with noise; those numbered in `broken` can't be read."""

    def __init__(self, count: int, classes: int = 4, *, seed: int = 0, broken: Sequence[int] = ()) -> None:
        self.labels = np.arange(count) % classes
        self.classes = tuple(f"class{number}" for number in range(classes))
        self.count, self.seed, self.broken = count, seed, frozenset(broken)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise BrokenImage("broken on purpose")
        assert self.labels is not None
        color = np.random.default_rng([7, int(self.labels[index])]).integers(32, 224, 3)
        noise = np.random.default_rng([self.seed, index]).integers(-32, 32, (16, 20, 3))
        return (color + noise).astype(np.uint8)

    def name(self, index: int) -> str:
        return f"pictures/{index:04d}"

    def fingerprint(self) -> str:
        return f"pictures:{self.count}:{self.seed}"


@dataclass(frozen=True, kw_only=True)
class FakeSetting(Setting):
    """Features are a random centre per class and noise, one draw per part; made by `fake_setting`."""

    dim: int
    spread: float
    dtype: torch.dtype

    def features(self, split: Split, parts: Sequence[str] = ("cls_1",)) -> SplitFeatures:
        source = split.source
        broken = getattr(source, "broken", frozenset())
        rows = np.array([row for row, index in enumerate(split.indices) if index not in broken], np.int64)
        if not len(rows):
            raise UserError(f"data: none of the {split.name} images can be read")
        found = [torch.stack([self._feature(source, int(split.indices[row]), part) for row in rows]) for part in parts]
        labels = None if source.labels is None else source.labels[split.indices[rows]]
        return SplitFeatures(torch.cat(found, dim=1).to(self.dtype), rows, labels)

    def _feature(self, source: Source, index: int, part: str) -> Tensor:
        key = int.from_bytes(part.encode(), "little") % 2**31
        label = 0 if source.labels is None else int(source.labels[index])
        centre = np.random.default_rng([key, label]).standard_normal(self.dim)
        noise = np.random.default_rng([key, getattr(source, "seed", 0), index, 1]).standard_normal(self.dim)
        return torch.from_numpy(centre + self.spread * noise).float()


def fake_setting(
    *,
    train: int = 120,
    test: int = 60,
    classes: int = 4,
    dim: int = 16,
    spread: float = 0.5,
    validation: int = 0,
    broken: Sequence[int] = (),
    seed: int = 0,
    rank: int = 0,
    size: int = 1,
    dtype: torch.dtype = torch.float32,
    check: Callable[[], object] = lambda: None,
) -> FakeSetting:
    """A setting with so many images, and a tiny backbone that `features` does not use.

    Args:
        dim: of the features of one part.
        spread: standard deviation of the noise; that of the centres is 1.
        broken: test images that can't be read.
        dtype: of the features.
    """
    world = World(rank, size, rank, size, torch.device("cpu"), None)
    preparation = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return FakeSetting(
        backbone=Backbone(tiny.backbone(), preparation),
        world=world,
        train=whole(Pictures(train, classes, seed=1), "train"),
        test=whole(Pictures(test, classes, seed=2, broken=broken), "test"),
        validation=whole(Pictures(validation, classes, seed=3), "validation") if validation else None,
        seed=seed,
        batch=16,
        threads=1,
        store=FeatureStore(None, world),
        check=check,
        dim=dim,
        spread=spread,
        dtype=dtype,
    )
