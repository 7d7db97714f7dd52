"""Measuring on every test image once, over all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from dinotrain.data.dense import DenseSource, Target
from dinotrain.distributed.collectives import gather_rows
from dinotrain.evaluation.reading import read_batches
from dinotrain.evaluation.setting import Setting

_TOGETHER = 4
"""Images that are read as one batch."""


class Measured(NamedTuple):
    """Values of the test images that could be read."""

    values: Shaped[np.ndarray, "m ..."]
    rows: Int64[np.ndarray, "m"]
    """Which images of the split these are."""


def measure(
    setting: Setting,
    target: Target,
    score: Callable[[int, np.ndarray, np.ndarray], Shaped[Tensor, "..."]],
) -> Measured:
    """What `score(row, image, truth)` returns for every image of the test split, the same on all processes.

    All processes call `score` equally often; with a row of -1 its value is dropped.
    """
    split, world = setting.test, setting.world
    source = split.source
    assert isinstance(source, DenseSource)
    share = -(-len(split) // world.size)
    own = np.arange(len(split))[world.rank * share : (world.rank + 1) * share]
    rows = np.append(own, np.zeros(share - len(own), np.int64))
    batches = read_batches(
        lambda row: source.pair(int(split.indices[row]), target),
        [rows[start : start + _TOGETHER].tolist() for start in range(0, share, _TOGETHER)],
        threads=setting.threads,
        fetch=lambda batch: source.fetch(split.indices[list(batch)].tolist()),
    )
    values, readable, done = [], [], 0
    with setting.progress(f"Measuring on the {split.name} images", len(split)) as report:
        for pair in (pair for batch in batches for pair in batch):
            setting.tick()
            counts = done < len(own) and pair is not None
            image, truth = pair or _blank(setting, target)
            values.append(score(int(rows[done]) if counts else -1, image, truth))
            readable.append(counts)
            done += 1
            report(min(done * world.size, len(split)))
    everything = gather_rows(torch.stack(values)[: len(own)].to(world.device)).cpu().numpy()
    ok = gather_rows(torch.tensor(readable[: len(own)], dtype=torch.int64, device=world.device)).bool().cpu().numpy()
    return Measured(everything[ok], np.flatnonzero(ok))


def _blank(setting: Setting, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Takes the place of an image that can't be read."""
    side = setting.backbone.patch_size
    kind = np.int64 if target == "masks" else np.float32
    return np.zeros((side, side, 3), np.uint8), np.zeros((side, side), kind)
