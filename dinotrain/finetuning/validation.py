"""Measuring a classifier on the validation images while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.features import Preparation, extracted
from dinotrain.evaluation.splits import Split
from dinotrain.finetuning.scores import Measured, measure_multi, measure_single

Labels = Int64[np.ndarray, "m"] | Bool[np.ndarray, "m C"]
"""Class numbers, or which classes each image has."""


@dataclass(kw_only=True)
class Validation:
    """The validation images, and what they show; all processes together.

    Args:
        labels: of all images of the split.
        batch: images per process and forward pass.
        threads: that read images; None for one per core.
        max_broken: share of the images that may be unreadable.
        check: called for every batch; may raise to end it all.
    """

    split: Split
    labels: Labels
    preparation: Preparation
    world: World
    batch: int
    threads: int | None = None
    max_broken: float = 1.0
    check: Callable[[], object] = lambda: None
    unreadable: int = field(default=0, init=False)

    def measure(self, network: nn.Module) -> Measured:
        """What the network's scores are worth.

        Raises:
            UserError: if too many images can't be read.
        """
        found, rows = self.scores(network)
        return measure(found, self.labels[rows])

    def scores(self, network: nn.Module) -> tuple[Float[np.ndarray, "m C"], Int64[np.ndarray, "m"]]:
        """Scores of the images that can be read, and which these are; the same on all processes."""
        was_training = network.training
        network.eval()
        pieces, readable = [], []
        with torch.no_grad():
            for found, ok in extracted(
                lambda images: {"scores": _forward(network, images)},
                self.split.source,
                self.split.indices,
                preparation=self.preparation,
                world=self.world,
                batch=self.batch,
                threads=self.threads,
                check=self.check,
            ):
                pieces.append(found["scores"].cpu())
                readable.append(ok.cpu())
        network.train(was_training)
        rows = np.flatnonzero(torch.cat(readable).numpy())
        self._count(rows)
        return torch.cat(pieces).numpy()[rows], rows

    def _count(self, rows: Int64[np.ndarray, "m"]) -> None:
        self.unreadable = len(self.split) - len(rows)
        if not len(rows) or self.unreadable > max(1, self.max_broken * len(self.split)):
            missing = np.setdiff1d(np.arange(len(self.split)), rows)
            first = self.split.source.name(int(self.split.indices[missing[0]]))
            raise UserError(
                f"data.max_broken: {self.unreadable} of the {len(self.split)} validation images can't be read, more "
                f"than a share of {self.max_broken:g}; the first: {first}"
            )


def measure(scores: Float[np.ndarray, "m C"], labels: Labels) -> Measured:
    """What scores are worth, by the kind of labels."""
    return measure_single(scores, labels) if labels.ndim == 1 else measure_multi(scores, labels)


def _forward(network: nn.Module, images: Tensor) -> Float[Tensor, "B C"]:
    return network(images).float()
