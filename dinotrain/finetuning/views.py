"""From labelled images to batches for training: random resized crops, mirrored, with other colours if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from dinotrain.data import photometric
from dinotrain.data.augment import Augment
from dinotrain.data.batch import Batch, Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import Order, positions, sample_rng
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.reading import read_batches
from dinotrain.evaluation.splits import Split

_STREAM = 7
_MOST_ATTEMPTS = 100
"""Images tried in place of one that can't be read."""
_JITTERED = 0.8
"""Share of the images whose colours are changed, where they are."""


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(Batch):
    """One view per image, nothing masked, and what the images show."""

    targets: Tensor
    """Class numbers [B], or 0 and 1 for each class [B, C]."""


class View(NamedTuple):
    """What stands at a position of the training sequence."""

    pixels: UInt8[Tensor, "S S 3"]
    colours: Float32[np.ndarray, "P"]
    """Numbers of the photometric augmentation."""
    row: int
    """Of the split."""
    skipped: tuple[Skipped, ...]


class Views:
    """Random views of a split's images; what stands at a position is a function of (seed, position).

    Args:
        split: the images.
        order: of the rows of the split.
        size: side of the views in px.
        crop_scale: least and greatest area of a view, as a share of its image; its aspect is 3/4 to 4/3.
        flip: probability of mirroring.
        color: strength of the jitter of brightness, contrast and saturation (a quarter of it for the hue), 0 for none.
        seed: of order and views.
    """

    def __init__(
        self,
        split: Split,
        order: Order,
        *,
        size: int,
        crop_scale: Sequence[float] = (0.6, 1.0),
        flip: float = 0.5,
        color: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.split, self.order, self.size, self.seed = split, order, size, seed
        self._crops = MultiCrop(global_size=size, num_local=0, global_scale=crop_scale)
        self._augment = Augment(
            flip=flip,
            jitter_probability=_JITTERED if color else 0.0,
            brightness=color,
            contrast=color,
            saturation=color,
            hue=min(color / 4, 0.5),
            grayscale=0.0,
            blur_global1=0.0,
            blur_global2=0.0,
            solarize_global2=0.0,
        )

    def fetch(self, places: Sequence[int]) -> None:
        """Told which positions are read next."""
        rows = self.order(np.asarray(places, np.int64), self.seed)
        self.split.source.fetch(self.split.indices[rows].tolist())

    def view(self, position: int) -> View:
        """The view at a position; of another image where its own can't be read.

        Raises:
            UserError: if too many in a row can't be.
        """
        rng = sample_rng(self.seed, position, _STREAM)
        draws, colours = self._crops.draw(rng), self._augment.parameters(rng, 0)[0]
        first = int(self.order(np.array([position]), self.seed)[0])
        skipped: list[Skipped] = []
        for row in chain([first], islice(self.order.replacements(position, self.seed), _MOST_ATTEMPTS)):
            index = int(self.split.indices[row])
            try:
                image = self.split.source.image(index, lambda height, width: self._crops.admits(draws, height, width))
            except BrokenImage as broken:
                skipped.append(Skipped(self.split.source.name(index), broken.reason))
                continue
            return View(self._cut(image, draws), colours, row, tuple(skipped))
        raise UserError(
            f"data.root: {len(skipped)} images in a row can't be read (the last: {skipped[-1].name}: "
            f"{skipped[-1].reason})"
        )

    def _cut(self, image: UInt8[np.ndarray, "H W 3"], draws: np.ndarray) -> UInt8[Tensor, "S S 3"]:
        top, left, high, wide = self._crops.boxes(draws, *image.shape[:2])[0]
        box = torch.from_numpy(image[top : top + high, left : left + wide]).permute(2, 0, 1).unsqueeze(0)
        return F.interpolate(box, size=(self.size, self.size), mode="bicubic", antialias=True)[0].permute(1, 2, 0)


def batches(
    views: Views,
    targets: Tensor,
    *,
    preparation: Preparation,
    global_batch: int,
    micro_batch: int,
    steps: range,
    world: World,
    threads: int | None = None,
) -> Iterator[LabelledBatch]:
    """The micro-batches of this process, of some steps.

    Args:
        targets: one row per image of the split.
        steps: of the run, the first one to do first.
        threads: that read images; None for one per core.
    """
    accumulation = global_batch // (micro_batch * world.size)
    places = (
        positions(
            step, micro, world.rank, global_batch=global_batch, micro_batch=micro_batch, world_size=world.size
        ).tolist()
        for step in steps
        for micro in range(accumulation)
    )
    for found in read_batches(views.view, places, threads=threads, fetch=views.fetch):
        yield _collated([view for view in found if view is not None], views.split, targets, preparation, world.device)


def _collated(
    views: Sequence[View], split: Split, targets: Tensor, preparation: Preparation, device: torch.device
) -> LabelledBatch:
    pixels = torch.stack([view.pixels for view in views]).to(device, non_blocking=True)
    colours = torch.from_numpy(np.stack([view.colours for view in views]))
    images: Float[Tensor, "B 3 S S"] = photometric.augment(pixels, colours, mean=preparation.mean, std=preparation.std)
    rows: Int64[np.ndarray, "B"] = np.array([view.row for view in views])
    nothing = torch.zeros(0, device=device)
    return LabelledBatch(
        global_crops=images.unsqueeze(0),
        local_crops=images.new_zeros(0, *images.shape),
        masks=torch.zeros(1, len(views), 0, dtype=torch.bool, device=device),
        mask_indices=nothing.long(),
        mask_weights=nothing,
        names=tuple(split.source.name(int(split.indices[row])) for row in rows),
        skipped=tuple(skipped for view in views for skipped in view.skipped),
        targets=targets[torch.from_numpy(rows)].to(device, non_blocking=True),
    )
