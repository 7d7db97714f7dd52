"""The first images of a run, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dinotrain.data.augment import Augment
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import Box, MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.masks import MaskSampler
from dinotrain.data.order import sample_rng
from dinotrain.data.source import Source
from dinotrain.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image with its L local and 2 global crops, the latter of N patches."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    """As the crops were cut from it: it may have been decoded at half its size."""
    boxes: list[Box]
    """Where they were cut, global crops first."""
    global_crops: UInt8[np.ndarray, "2 S S 3"]
    """Augmented."""
    local_crops: UInt8[np.ndarray, "L s s 3"]
    masks: Bool[np.ndarray, "2 N"]
    """True where the student does not see a patch; N is 0 where there are no masks."""


def examples(
    *,
    source: Source,
    crops: MultiCrop,
    augment: Augment,
    masks: MaskSampler | None,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    count: int,
) -> list[Example]:
    """The samples at the first positions of training, as the loader hands them to the student.

    Raises:
        UserError: too many images in a row can't be read.
    """
    count = min(count, len(source))
    loader = Loader(
        source=source,
        crops=crops,
        augment=augment,
        masks=masks,
        global_batch=count,
        micro_batch=count,
        seed=seed,
        mean=mean,
        std=std,
        steps=1,
    )
    batch = next(iter(loader))
    global_crops, local_crops = (_levels(views, mean, std) for views in (batch.global_crops, batch.local_crops))
    found = []
    for place, name in enumerate(batch.names):
        draws = crops.draw(sample_rng(seed, place))
        image = _cut_image(source, crops, draws, seed, place, name)
        example = Example(
            name=name,
            image=image,
            boxes=crops.boxes(draws, *image.shape[:2]),
            global_crops=global_crops[:, place],
            local_crops=local_crops[:, place],
            masks=batch.masks[:, place].numpy(),
        )
        found.append(example)
    return found


def _cut_image(
    source: Source, crops: MultiCrop, draws: np.ndarray, seed: int, position: int, name: str
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with this name that was used for the sample at a position: its own, or a replacement."""
    order = source.order()
    own = order(np.array([position]), seed).tolist()
    for index in chain(own, order.replacements(position, seed)):
        if source.name(index) == name:
            try:
                return source.image(index, partial(crops.admits, draws))
            except BrokenImage as broken:
                raise UserError(f"{name}: could be read once, but not again ({broken.reason})") from broken
    raise AssertionError(f"{name} is not among the images of position {position}")


def _levels(
    views: Float[Tensor, "V B 3 S S"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[np.ndarray, "V B S S 3"]:
    """Undo the normalisation."""
    pixels = views.movedim(2, -1) * views.new_tensor(std) + views.new_tensor(mean)
    return (pixels * 255).round().clamp(0, 255).byte().numpy()
