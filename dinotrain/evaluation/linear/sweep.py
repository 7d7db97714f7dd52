"""A sweep of linear classifiers over learning rates and inputs, in one pass over the training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dinotrain.data import arguments
from dinotrain.data.order import sample_index
from dinotrain.distributed.collectives import gather_rows
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import MOST_BLOCKS
from dinotrain.evaluation.finite import finite
from dinotrain.evaluation.linear.heads import MOMENTUM, LinearHeads, Loss
from dinotrain.evaluation.linear.inputs import POOLING, linear_inputs
from dinotrain.evaluation.linear.random_views import FLIP, SCALE, RandomViews
from dinotrain.evaluation.reading import read_batches
from dinotrain.evaluation.setting import Setting, SplitFeatures

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_PER_BATCH = 256
_ON_DEVICE_BYTES = 2**32
"""Stored features up to this size are moved to the device as a whole."""

Targets = Callable[[Int64[np.ndarray, "B"]], Float[Tensor, "B C"]]
"""Rows of the training split -> which classes each has, on the device."""


class _Samples(NamedTuple):
    features: Float[Tensor, "B D"]
    rows: Int64[np.ndarray, "B"]
    """Of the training split."""


class Trained(NamedTuple):
    """The heads of a sweep."""

    heads: LinearHeads
    parts: tuple[str, ...]
    """The features they take."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LinearSweep:
    """Options of all tasks that train linear classifiers (DINOv2, arXiv:2304.07193, section 7.1).

    Args:
        steps: updates of every head.
        batch: images per update, over all processes.
        learning_rates: to try, each times batch / 256.
        blocks: numbers of last blocks whose CLS tokens heads see, 1 to 4.
        pooling: "cls" for these alone, "cls_patch" with the mean patch token of the last block beside them.
        augment: random resized crops and mirroring, computed anew for every step; else the stored features of the
            images as they are tested.
        held_out: share of the training images that heads are chosen by, where there is no validation split.
    """

    steps: int = 12_500
    batch: int = 1024
    learning_rates: Sequence[float] = LEARNING_RATES
    blocks: Sequence[int] = (1, 4)
    pooling: Sequence[str] = tuple(POOLING)
    augment: bool = True
    held_out: float = 0.1

    loss: ClassVar[Loss] = "cross_entropy"

    def __post_init__(self) -> None:
        arguments.whole("steps", self.steps, 1)
        arguments.whole("batch", self.batch, 1)
        for name in ("learning_rates", "blocks", "pooling"):
            values = getattr(self, name)
            if isinstance(values, (str, int, float)) or not len(values) or len(set(values)) < len(values):
                raise ValueError(f"{name}: got {values!r}, expected a list of one or more different values")
        for rate in self.learning_rates:
            if arguments.number("learning_rates", rate, 0) == 0:
                raise ValueError("learning_rates: got 0, expected numbers above 0")
        for count in self.blocks:
            arguments.whole("blocks", count, 1, MOST_BLOCKS)
        for name in self.pooling:
            if name not in POOLING:
                raise ValueError(f"pooling: got {name!r}, expected some of {', '.join(POOLING)}")
        if not isinstance(self.augment, bool):
            raise ValueError(f"augment: got {self.augment!r}, expected true or false")
        if not 0 < arguments.share("held_out", self.held_out) < 1:
            raise ValueError(f"held_out: got {self.held_out}, expected a number between 0 and 1")

    def train(self, setting: Setting, rows: Int64[np.ndarray, "n"], targets: Targets, classes: int) -> Trained:
        """Train all heads on these rows of the training split; all processes together.

        Raises:
            UserError: none of the images can be read.
        """
        parts, inputs = linear_inputs(setting.backbone, self.blocks, self.pooling)
        heads = LinearHeads(
            inputs,
            [rate * self.batch / _PER_BATCH for rate in self.learning_rates],
            classes=classes,
            steps=self.steps,
            loss=self.loss,
            seed=setting.seed,
            device=setting.backbone.device,
            rank=setting.world.rank,
            size=setting.world.size,
        )
        seen, lost = 0, 0
        samples = self._views(setting, rows, parts) if self.augment else self._stored(setting, rows, parts)
        with setting.progress(f"Training {len(heads)} linear classifiers", self.steps, "steps") as report:
            for step, batch in enumerate(samples, start=1):
                if len(batch.rows):
                    heads.step(batch.features, targets(batch.rows))
                seen, lost = seen + len(batch.rows), lost + self.batch - len(batch.rows)
                report(step)
        if not seen:
            raise UserError("data: none of the training images can be read")
        return Trained(heads, parts, self._notes(setting, lost))

    def choosing(self, setting: Setting, held: Int64[np.ndarray, "h"], parts: Sequence[str]) -> SplitFeatures:
        """Features to choose a head by: of the validation split, else of these rows of the training split.

        Raises:
            UserError: none of the images can be read.
        """
        if setting.validation is not None:
            found = setting.features(setting.validation, parts)
        elif self.augment:  # the stored features of the other training images may never be needed
            found = setting.features(setting.train.part(held, "held-out"), parts)
            found = found._replace(rows=held[found.rows])
        else:
            found = setting.features(setting.train, parts)
            places = np.flatnonzero(np.isin(found.rows, held))
            if not len(places):
                raise UserError("data: none of the held-out images can be read")
            labels = None if found.labels is None else found.labels[places]
            found = SplitFeatures(found.values[places], found.rows[places], labels)
        return found

    def testing(self, setting: Setting, parts: Sequence[str]) -> SplitFeatures:
        """Features of the test split; raises `UserError` if none of its images can be read."""
        return setting.features(setting.test, parts)

    def protocol(self, setting: Setting) -> dict[str, Any]:
        """All that decides how heads are trained."""
        views: dict[str, Any] = {"crops": list(SCALE), "flip": FLIP, "resize": "bicubic with antialias"}
        return {
            "steps": self.steps,
            "batch": self.batch,
            "learning_rates": list(self.learning_rates),
            "learning_rates_times": f"batch / {_PER_BATCH}",
            "schedule": "cosine to 0",
            "optimizer": f"SGD, momentum {MOMENTUM}, no weight decay",
            "loss": self.loss,
            "blocks": list(self.blocks),
            "pooling": list(self.pooling),
            "augment": views if self.augment else False,
            "chosen_by": "validation split" if setting.validation else f"{self.held_out:g} of train, held out",
            "seed": setting.seed,
        }

    def _views(self, setting: Setting, rows: Int64[np.ndarray, "n"], parts: Sequence[str]) -> Iterator[_Samples]:
        """Features of random views: each process computes a share of each batch, and gets those of all."""
        backbone, world = setting.backbone, setting.world
        views = RandomViews(setting.train.part(rows), size=backbone.preparation.size, seed=setting.seed)
        share = -(-self.batch // world.size)
        mine = np.arange(self.batch)[world.rank * share : (world.rank + 1) * share]
        # As many pieces on every process, as sharded networks need, even where there is nothing left for some.
        pieces = [mine[start : start + setting.batch] for start in range(0, share, setting.batch)]
        batches = ((step * self.batch + piece).tolist() for step in range(self.steps) for piece in pieces)
        reading = read_batches(views.view, batches, threads=setting.threads, fetch=views.fetch)
        blank = torch.zeros(3, views.size, views.size, dtype=torch.uint8)
        for step in range(self.steps):
            features, positions = [], []
            for piece, images in zip(pieces, islice(reading, len(pieces))):
                readable = [place for place, image in enumerate(images) if image is not None]
                pixels = torch.stack([image for image in images if image is not None] or [blank])
                pooled = backbone.pooled(backbone.normalize(pixels), parts)
                features.append(torch.cat([pooled[part] for part in parts], dim=1)[: len(readable)])
                positions.append(step * self.batch + piece[readable])
                setting.tick()
            places = gather_rows(torch.from_numpy(np.concatenate(positions)).to(backbone.device))
            yield _Samples(
                finite(gather_rows(torch.cat(features)), backbone.device), rows[views.rows(places.cpu().numpy())]
            )

    def _stored(self, setting: Setting, rows: Int64[np.ndarray, "n"], parts: Sequence[str]) -> Iterator[_Samples]:
        """Stored features, in an order of their own each epoch, the same on every process."""
        values, known, _ = setting.features(setting.train, parts)
        places = np.flatnonzero(np.isin(known, rows))
        if not len(places):
            return
        device = setting.backbone.device
        if values.nbytes <= _ON_DEVICE_BYTES:
            values = values.to(device)
        for step in range(self.steps):
            setting.tick()
            positions = np.arange(step * self.batch, (step + 1) * self.batch)
            picked = places[sample_index(positions, len(places), setting.seed)]
            features = values[torch.from_numpy(picked).to(values.device)]
            yield _Samples(finite(features, device), known[picked])

    def _notes(self, setting: Setting, lost: int) -> tuple[str, ...]:
        notes = []
        depth = setting.backbone.blocks
        if max(self.blocks) > depth:
            notes.append(f"blocks: the network has {depth}, so {depth} stands for {max(self.blocks)}")
        if lost:
            notes.append(f"{lost} of {self.steps * self.batch} training views could not be read and were left out")
        return tuple(notes)
