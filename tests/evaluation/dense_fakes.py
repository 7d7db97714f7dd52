"""Pictures whose classes and depths are exact, a backbone that passes colours on, and settings made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from dinotrain.data.broken import BrokenImage
from dinotrain.data.dense import IGNORE, DenseSource, Target
from dinotrain.distributed.world import World
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import whole
from dinotrain.evaluation.store import FeatureStore

COLORS = np.array([[40, 60, 50], [220, 60, 40], [50, 90, 230]], np.uint8)
MAX_DEPTH = 5.0


class Rectangles(DenseSource):
    """Two rectangles of different classes on a background; each colour is nearer where it is brighter."""

    targets: tuple[Target, ...] = ("masks", "depth")
    classes = ("ground", "red", "blue")
    max_depth = MAX_DEPTH

    def __init__(
        self, count: int, *, seed: int = 0, broken: Sequence[int] = (), shape: tuple[int, int] = (32, 40)
    ) -> None:
        self.count, self.seed, self.broken, self.shape = count, seed, frozenset(broken), shape

    def __len__(self) -> int:
        return self.count

    def _layers(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Class and depth of every pixel."""
        random = np.random.default_rng([self.seed, index])
        height, width = self.shape
        mask, depth = np.zeros(self.shape, np.int64), np.full(self.shape, 4.0, np.float32)
        for number in (1, 2):
            top, left = random.integers(height - 12), random.integers(width - 16)
            part = np.s_[top : top + random.integers(10, 20), left : left + random.integers(12, 24)]
            mask[part], depth[part] = number, random.uniform(0.5, 3)
        return mask, depth

    def read(self, index: int) -> np.ndarray:
        if index in self.broken:
            raise BrokenImage("broken on purpose")
        mask, depth = self._layers(index)
        noise = np.random.default_rng([self.seed, index, 1]).integers(-8, 8, (*self.shape, 3))
        light = (1.1 - depth[..., None] / MAX_DEPTH) * COLORS[mask]
        return np.clip(light + noise, 0, 255).astype(np.uint8)

    def mask(self, index: int) -> np.ndarray:
        mask = self._layers(index)[0]
        mask[0] = IGNORE
        return mask

    def depth(self, index: int) -> np.ndarray:
        depth = self._layers(index)[1]
        depth[0] = 0
        return depth

    def name(self, index: int) -> str:
        return f"rectangles/{index}"

    def target_name(self, index: int, target: Target) -> str:
        return f"rectangles/{index}.{target}"

    def fingerprint(self) -> str:
        return f"rectangles:{self.count}:{self.seed}:{self.shape}"


class ColorBackbone(Backbone):
    """Mean colours of patches, and their squares: local, and nothing changes when the image is mirrored or moved."""

    def patches(self, images: Tensor, blocks: int = 1, *, cls: bool = False) -> Tensor:
        means = F.avg_pool2d(images, self.patch_size)
        found = F.pad(torch.cat([means, means.square()], dim=1), (0, 0, 0, 0, 0, self.dim - 6))
        return found.repeat(1, blocks * (2 if cls else 1), 1, 1)


def dense_setting(
    *,
    train: int = 12,
    test: int = 7,
    broken: Sequence[int] = (),
    kind: type[Backbone] = ColorBackbone,
    rank: int = 0,
    size: int = 1,
    control: object = None,
    shape: tuple[int, int] = (32, 40),
) -> Setting:
    """So many images of rectangles; `broken` are those that can't be read, in training and at test."""
    world = World(rank, size, rank, size, torch.device("cpu"), control)
    preparation = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Setting(
        backbone=kind(tiny.backbone(), preparation),
        world=world,
        train=whole(Rectangles(train, seed=1, broken=broken, shape=shape), "train"),
        test=whole(Rectangles(test, seed=2, broken=broken, shape=shape), "test"),
        batch=4,
        threads=1,
        store=FeatureStore(None, world),
    )
