"""Semantic segmentation with a linear layer on frozen patch tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dinotrain.data import arguments
from dinotrain.data.dense import IGNORE
from dinotrain.errors import UserError
from dinotrain.evaluation.dense import iou
from dinotrain.evaluation.dense.account import loss_chart, reading_notes
from dinotrain.evaluation.dense.head import DenseHead, upsampled
from dinotrain.evaluation.dense.options import DenseOptions, fitting_blocks
from dinotrain.evaluation.dense.pictures import Gallery, class_colors, legend, overlay
from dinotrain.evaluation.dense.prediction import DensePredictor, Look, most_probable
from dinotrain.evaluation.dense.testing import Measured, measure
from dinotrain.evaluation.dense.training import Trained, train_heads
from dinotrain.evaluation.outcome import Outcome, PerImage, Picture, Table
from dinotrain.evaluation.setting import Setting

VARIANTS = {"linear": 1, "multiscale": 4}
"""How many of the last blocks each takes."""
_LOGITS = 2**28
"""Numbers that are up-sampled at once in training, 1 GiB in float32."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(DenseOptions):
    """Mean intersection over union of a linear head (DINOv2, arXiv:2304.07193, section 7.4); see `DenseOptions` too.

    The defaults of training are those of the heads that were released with DINOv2: 40,000 steps of 16 crops of 512 px,
    AdamW with 1e-3, BatchNorm before the linear layer; there, "multiscale" has 640 px and scales 1 .. 3.

    Args:
        variants: "linear", on the last block, every image seen once; "multiscale", on the last four, seen at several
            scales and mirrored. The first gives the headline.
        window: at test, slide windows of `size` over the image with a stride of two thirds; else all of it at once.
        scales: of "multiscale".
        most_of_a_class: a training crop with more than this share of one class is drawn again.
    """

    published_size: ClassVar[int] = 512

    variants: Sequence[str] = ("linear",)
    window: bool = True
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    crop_scale: Sequence[float] = (0.5, 2.0)
    most_of_a_class: float = 0.75
    color: float = 0.25
    steps: int = 40_000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.0375
    schedule: str = "poly"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.share("most_of_a_class", self.most_of_a_class)
        if not isinstance(self.window, bool):
            raise ValueError(f"window: got {self.window!r}, expected true or false")
        if isinstance(self.variants, str) or not self.variants or not set(self.variants) <= set(VARIANTS):
            raise ValueError(f"variants: got {self.variants!r}, expected a list of {', '.join(VARIANTS)}")
        if isinstance(self.scales, (str, float, int)) or not self.scales:
            raise ValueError(f"scales: got {self.scales!r}, expected a list of numbers above 0")
        for scale in self.scales:
            if arguments.number("scales", scale, 0) == 0:
                raise ValueError("scales: got 0, expected numbers above 0")

    def run(self, setting: Setting) -> Outcome:
        """Train the heads on the training images, and measure them on the test images.

        Raises:
            UserError: the images have no masks, or other classes at test than in training.
        """
        classes = _classes(setting)
        device = setting.backbone.device
        size = self.side(setting)
        blocks = {name: fitting_blocks(VARIANTS[name], setting.backbone) for name in self.variants}
        heads = {
            name: DenseHead(count * setting.backbone.dim, len(classes), normalize=True, seed=setting.seed).to(device)
            for name, count in blocks.items()
        }

        def features(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
            return setting.backbone.patches(images, max(blocks.values()))

        trained = train_heads(
            heads,
            setting,
            target="masks",
            views=self.views(setting, size, unknown=IGNORE, most=self.most_of_a_class),
            features=features,
            loss=segmentation_loss,
            recipe=self.recipe(),
        )
        predictor = DensePredictor(
            setting.backbone, heads, features, size=size, looks=self._looks(), window=self.window
        )
        gallery = Gallery(setting, self.pictures)
        measured = self._measured(setting, predictor, classes, gallery)
        return self._outcome(setting, trained, measured, gallery, classes, {"size": size, "blocks": blocks})

    def _looks(self) -> dict[str, list[Look]]:
        several = [Look(float(scale), flip) for scale in self.scales for flip in (False, True)]
        return {name: several if name == "multiscale" else [Look(1.0, False)] for name in self.variants}

    def _measured(
        self, setting: Setting, predictor: DensePredictor, classes: tuple[str, ...], gallery: Gallery
    ) -> Measured:
        """Areas [m, variants, 3, C] of every image, see `iou.areas`."""
        colors = class_colors(len(classes))

        def score(row: int, image: np.ndarray, truth: np.ndarray) -> Int64[Tensor, "V 3 C"]:
            maps = predictor(image)
            found = {name: most_probable(maps[name], truth.shape) for name in self.variants}
            if gallery.wants(row):
                masks = [truth, *(mask.cpu().numpy() for mask in found.values())]
                gallery.add(row, [image, *(overlay(image, mask, colors) for mask in masks)])
            target = torch.from_numpy(truth).to(setting.backbone.device)
            return torch.stack([iou.areas(found[name], target, len(classes)) for name in self.variants])

        return measure(setting, "masks", score)

    def _outcome(
        self,
        setting: Setting,
        trained: Trained,
        measured: Measured,
        gallery: Gallery,
        classes: tuple[str, ...],
        made: dict[str, Any],
    ) -> Outcome:
        if not len(measured.rows):
            raise UserError("data: none of the test images could be read with its mask")
        by_variant = dict(zip(self.variants, np.moveaxis(measured.values, 1, 0)))
        numbers = {}
        for name, counted in by_variant.items():
            end = "" if name == self.variants[0] else f"_{name}"
            numbers[f"miou{end}"] = float(np.nanmean(iou.class_iou(counted)))
            numbers[f"pixel_accuracy{end}"] = iou.pixel_accuracy(counted)
            numbers[f"class_accuracy{end}"] = float(np.nanmean(iou.class_accuracy(counted)))
        first = by_variant[self.variants[0]]
        intersection = first[:, iou.INTERSECTION]
        return Outcome(
            numbers=numbers,
            protocol={**asdict(self), **made, "seed": setting.seed, "classes": len(classes)},
            per_image=PerImage(
                kind="iou", rows=measured.rows, arrays={"intersection": intersection, "union": iou.union(first)}
            ),
            notes=reading_notes(trained, len(setting.test) - len(measured.rows)),
            charts=(loss_chart(trained),),
            tables=(_table(by_variant, classes),),
            pictures=self._pictures(gallery, classes),
        )

    def _pictures(self, gallery: Gallery, classes: tuple[str, ...]) -> tuple[Picture, ...]:
        image = gallery.collected(lambda width: legend(classes, class_colors(len(classes)), width))
        if image is None:
            return ()
        note = f"From left to right: image, truth, {', '.join(self.variants)}."
        return (Picture(name="overlays", title="Segmentation of some test images", image=image, note=note),)


def segmentation_loss(logits: Float[Tensor, "B K h w"], truth: Int64[Tensor, "B S S"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of all labelled pixels, with logits resized to them.

    Where there are many numbers it is computed in parts, twice each, to bound the memory.
    """
    together = max(_LOGITS // (logits.shape[1] * truth[0].numel()), 1)
    parts = list(zip(logits.split(together), truth.split(together)))
    summed = [checkpoint(_summed, *part, use_reentrant=False) if len(parts) > 1 else _summed(*part) for part in parts]
    return torch.stack(summed).sum() / (truth != IGNORE).sum().clamp(min=1)


def _summed(logits: Float[Tensor, "B K h w"], truth: Int64[Tensor, "B S S"]) -> Float[Tensor, ""]:
    height, width = truth.shape[1:]
    return F.cross_entropy(upsampled(logits, (height, width)), truth, ignore_index=IGNORE, reduction="sum")


def _table(by_variant: dict[str, np.ndarray], classes: tuple[str, ...]) -> Table:
    """Every class, the greatest first."""
    pixels = next(iter(by_variant.values()))[:, iou.TRUE].sum(axis=0)
    scores = {name: (iou.class_iou(counted), iou.class_accuracy(counted)) for name, counted in by_variant.items()}
    heading = [f"{what} {name}" for name in scores for what in ("IoU", "accuracy")] if len(scores) > 1 else []
    rows = []
    for number in np.argsort(-pixels, kind="stable").tolist():
        cells = [f"{part[number]:.1f}" for parts in scores.values() for part in parts]
        share = 100 * pixels[number] / max(pixels.sum(), 1)
        rows.append((classes[number], f"{share:.2f}", *(cell.replace("nan", "none") for cell in cells)))
    return Table(
        title="Classes",
        note="All in percent; the greatest class first.",
        columns=("class", "of all pixels", *(heading or ("IoU", "accuracy"))),
        rows=tuple(rows),
    )


def _classes(setting: Setting) -> tuple[str, ...]:
    """Names of the classes, the same in training and at test.

    Raises:
        UserError: if they are not.
    """
    train, test = (split.source for split in (setting.train, setting.test))
    for source in (train, test):
        if "masks" not in getattr(source, "targets", ()) or source.classes is None:
            raise UserError("data: these images have no masks of classes")
    assert train.classes is not None
    assert test.classes is not None
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        what = f"such as {differing[0]!r}" if differing else "in another order"
        raise UserError(
            f"data: the test images have {len(test.classes)} classes, the training images {len(train.classes)}, that "
            f"differ ({what}); expected the same"
        )
    return train.classes
