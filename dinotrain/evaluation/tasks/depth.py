"""Depth from a single image, with a linear layer on frozen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dinotrain.data import arguments
from dinotrain.data.dense import DenseSource
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import MOST_BLOCKS
from dinotrain.evaluation.dense.account import loss_chart, reading_notes
from dinotrain.evaluation.dense.depth_bins import BINS, depth_of
from dinotrain.evaluation.dense.depth_loss import depth_loss
from dinotrain.evaluation.dense.depth_metrics import METRICS, depth_errors
from dinotrain.evaluation.dense.head import DenseHead, upsampled
from dinotrain.evaluation.dense.options import DenseOptions, fitting_blocks
from dinotrain.evaluation.dense.pictures import Gallery, depth_bar, depth_colors
from dinotrain.evaluation.dense.prediction import DensePredictor, Look
from dinotrain.evaluation.dense.testing import Measured, measure
from dinotrain.evaluation.dense.training import Trained, train_heads
from dinotrain.evaluation.outcome import Outcome, PerImage, Picture, Table
from dinotrain.evaluation.setting import Setting


class _Range(NamedTuple):
    """What is measured of a depth."""

    most: float
    crop: tuple[int, int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class Depth(DenseOptions):
    """Errors of depth from a linear head (DINOv2, arXiv:2304.07193, section 7.4); see `DenseOptions` too.

    The CLS token is concatenated to every patch token, 256 bins are classified at four times the patch grid's
    resolution. Training as for the heads that were released with DINOv2 on NYU Depth v2: 38,400 steps of 16 images,
    AdamW with 1e-4. There, four blocks are spread over the network; here they are the last four.

    Training images are not resized beyond `size` unless `crop_scale` says so, since a nearer object looks like a
    greater one.

    Args:
        blocks: numbers of last blocks that heads take, 1 to 4, one head for each. The first gives the headline.
        flip: at test, average with the prediction for the mirrored image.
        gradient_weight: of the gradient loss beside the scale-invariant one. The configuration of the released heads
            says 0.5, but their code takes steps along the batch and the channels in place of rows and columns, which
            adds nothing at their two images per GPU. With the large patches of small images it blurs more than it
            sharpens.
    """

    published_size: ClassVar[int] = 480

    blocks: Sequence[int] = (1,)
    flip: bool = True
    gradient_weight: float = 0.0
    crop_scale: Sequence[float] = (1.0, 1.0)
    color: float = 0.1
    steps: int = 38_400
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 1 / 3
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("gradient_weight", self.gradient_weight, 0)
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip: got {self.flip!r}, expected true or false")
        if isinstance(self.blocks, (str, int, float)) or not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise ValueError(f"blocks: got {self.blocks!r}, expected a list of different numbers, such as [1, 4]")
        for count in self.blocks:
            arguments.whole("blocks", count, 1, MOST_BLOCKS)

    def run(self, setting: Setting) -> Outcome:
        """Train the heads on the training images, and measure them on the test images.

        Raises:
            UserError: the images have no depth.
        """
        limits = _range(setting)
        device = setting.backbone.device
        size = self.side(setting)
        blocks = {_name(count): fitting_blocks(count, setting.backbone) for count in self.blocks}
        heads = {
            name: DenseHead(2 * count * setting.backbone.dim, BINS, normalize=False, seed=setting.seed).to(device)
            for name, count in blocks.items()
        }

        def features(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
            return setting.backbone.patches(images, max(blocks.values()), cls=True)

        def loss(logits: Float[Tensor, "B K h w"], truth: Float[Tensor, "B S S"]) -> Float[Tensor, ""]:
            height, width = truth.shape[1:]
            return depth_loss(
                upsampled(depth_of(logits, limits.most), (height, width)), truth, limits.most, self.gradient_weight
            )

        trained = train_heads(
            heads,
            setting,
            target="depth",
            views=self.views(setting, size, unknown=0),
            features=features,
            loss=loss,
            recipe=self.recipe(),
        )
        looks = [Look(1.0, flip) for flip in ((False, True) if self.flip else (False,))]
        predictor = DensePredictor(
            setting.backbone, heads, features, size=size, looks=dict.fromkeys(heads, looks), window=False
        )
        gallery = Gallery(setting, self.pictures)
        measured = _measured(setting, predictor, limits, gallery)
        made = {"size": size, "bins": BINS, "max_depth": limits.most, "evaluation_crop": limits.crop}
        return self._outcome(setting, trained, measured, gallery, list(heads), made)

    def _outcome(
        self,
        setting: Setting,
        trained: Trained,
        measured: Measured,
        gallery: Gallery,
        names: list[str],
        made: dict[str, Any],
    ) -> Outcome:
        known = ~np.isnan(measured.values).any(axis=(1, 2))
        if not known.any():
            raise UserError("data: none of the test images could be read with its depth, or all are of unknown depth")
        values = measured.values[known]
        means = dict(zip(names, values.mean(axis=0).tolist()))
        numbers = {
            metric if name == names[0] else f"{metric}_{name}": value
            for name in names
            for metric, value in zip(METRICS, means[name])
        }
        notes = reading_notes(trained, len(setting.test) - len(measured.rows))
        if not known.all():
            notes += (f"{(~known).sum()} test images have no known depth to measure, and are not counted",)
        return Outcome(
            numbers=numbers,
            protocol={**asdict(self), **made, "seed": setting.seed},
            per_image=PerImage(kind="rmse", rows=measured.rows[known], arrays={"value": values[:, 0, 0]}),
            notes=notes,
            charts=(loss_chart(trained),),
            tables=(_table(means),),
            pictures=_pictures(gallery, names),
        )


def _name(blocks: int) -> str:
    return "1_block" if blocks == 1 else f"{blocks}_blocks"


def _range(setting: Setting) -> _Range:
    """What the sources say of their depths.

    Raises:
        UserError: if they have none.
    """
    train, test = setting.train.source, setting.test.source
    for source in (train, test):
        if not isinstance(source, DenseSource) or "depth" not in source.targets or source.max_depth is None:
            raise UserError("data: these images have no depth")
    assert isinstance(train, DenseSource)
    assert isinstance(test, DenseSource)
    assert train.max_depth is not None
    return _Range(train.max_depth, test.evaluation_crop)


def _measured(setting: Setting, predictor: DensePredictor, limits: _Range, gallery: Gallery) -> Measured:
    """Errors [m, heads, metrics] of every image, see `depth_errors`."""

    def predicted(logits: list[Float[Tensor, "K h w"]], shape: tuple[int, int]) -> Float[Tensor, "H W"]:
        maps = [upsampled(depth_of(look.unsqueeze(0), limits.most)[0], shape) for look in logits]
        return torch.stack(maps).mean(dim=0)

    def score(row: int, image: np.ndarray, truth: np.ndarray) -> Float64[Tensor, "heads 8"]:
        found = [predicted(logits, truth.shape) for logits in predictor(image).values()]
        if gallery.wants(row):
            gallery.add(row, _row(image, truth, [depth.cpu().numpy() for depth in found]))
        target = torch.from_numpy(truth).to(setting.backbone.device)
        return torch.stack([depth_errors(depth, target, limits.most, limits.crop) for depth in found])

    return measure(setting, "depth", score)


def _row(image: np.ndarray, truth: np.ndarray, found: list[np.ndarray]) -> list[np.ndarray]:
    """All depths in the colours of the range of the true ones, and a bar that says which."""
    known = truth[truth > 0]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return [image, *(depth_colors(depth, low, high) for depth in (truth, *found)), depth_bar(low, high)]


def _table(means: dict[str, list[float]]) -> Table:
    rows = [(name.replace("_", " "), *(f"{value:.4g}" for value in values)) for name, values in means.items()]
    note = "Means over the test images; rmse and sq_rel in metres, delta1..3 in percent."
    return Table(title="Errors", note=note, columns=("head", *METRICS), rows=tuple(rows))


def _pictures(gallery: Gallery, names: list[str]) -> tuple[Picture, ...]:
    image = gallery.collected()
    if image is None:
        return ()
    heads = ", ".join(name.replace("_", " ") for name in names)
    note = f"From left to right: image, truth, {heads}. Red is near, blue is far, as the bar says; grey is unknown."
    return (Picture(name="depths", title="Depth of some test images", image=image, note=note),)
