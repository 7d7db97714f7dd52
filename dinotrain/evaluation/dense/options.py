"""Options that segmentation and depth share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Literal, cast

from dinotrain.data import arguments
from dinotrain.data.broken import BrokenImage
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.dense.training import Recipe
from dinotrain.evaluation.dense.views import DenseViews
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import Split

SCHEDULES = ("poly", "cosine")
_FLIP = 0.5
_LOOKED_AT = 15
"""Images whose size tells that of all."""


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """How a dense head is trained.

    Args:
        size: short side of a test image and side of a training crop in pixels, to the nearest multiple of the patch
            size; None for `published_size`, or for the images' own side or that of the other tasks where it is less.
        crop_scale: least and greatest factor by which a training image is resized beyond that, before it is cropped.
        color: brightness, contrast and saturation of training crops vary by up to this share.
        steps: updates of the head.
        batch: images per update, over all processes.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW.
        warmup: share of the steps in which the learning rate rises.
        schedule: how it falls afterwards, "poly" (a straight line) or "cosine".
        pictures: test images that are shown.
    """

    published_size: ClassVar[int]

    size: int | None = None
    crop_scale: Sequence[float]
    color: float
    steps: int
    batch: int = 16
    learning_rate: float
    weight_decay: float
    warmup: float
    schedule: str
    pictures: int = 6

    def __post_init__(self) -> None:
        for name in ("steps", "batch") if self.size is None else ("size", "steps", "batch"):
            arguments.whole(name, getattr(self, name), 1)
        arguments.whole("pictures", self.pictures, 0)
        arguments.interval("crop_scale", self.crop_scale)
        for name in ("learning_rate", "weight_decay"):
            arguments.number(name, getattr(self, name), 0)
        for name in ("color", "warmup"):
            arguments.share(name, getattr(self, name))
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: got {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")

    def side(self, setting: Setting) -> int:
        """`size` in whole patches; the same on all processes."""
        wanted = self.size or min(
            self.published_size, max(_short_side(setting.train), setting.backbone.preparation.size)
        )
        return max(round(wanted / setting.backbone.patch_size), 1) * setting.backbone.patch_size

    def recipe(self) -> Recipe:
        """Of the training."""
        return Recipe(
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            schedule=cast(Literal["poly", "cosine"], self.schedule),
        )

    def views(self, setting: Setting, size: int, *, unknown: int, most: float = 1.0) -> DenseViews:
        """Of the training images; see `DenseViews`."""
        low, high = self.crop_scale
        red, green, blue = (round(255 * level) for level in setting.backbone.preparation.mean)
        return DenseViews(
            seed=setting.seed,
            size=size,
            scale=(low, high),
            flip=_FLIP,
            color=self.color,
            most=most,
            unknown=unknown,
            fill=(red, green, blue),
        )


def _short_side(split: Split) -> int:
    """The median over the first images, in pixels."""
    sides = []
    for index in split.indices[:_LOOKED_AT]:
        with suppress(BrokenImage):
            sides.append(min(split.source.image(int(index)).shape[:2]))
    return int(median(sides)) if sides else 1


def fitting_blocks(blocks: int, backbone: Backbone) -> int:
    """So many blocks, or all that features can be asked of."""
    return min(blocks, backbone.blocks)
