"""Views of an image together with what is known of its pixels, to train dense heads on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from torch import Tensor

from dinotrain.data import levels

_TRIES = 10


class View(NamedTuple):
    """A square cut-out."""

    pixels: UInt8[Tensor, "3 S S"]
    target: Shaped[Tensor, "S S"]


@dataclass(frozen=True, kw_only=True)
class DenseViews:
    """Random scale, random crop, flip and a little colour; a function of (seed, position) alone.

    The image is resized so that its short side is `size` times a factor drawn from `scale`, a square is cut out, and
    what the image does not fill is padded (DINOv2, arXiv:2304.07193, section 7.4, after the usual pipeline for
    ADE20K). Targets are taken from the nearest pixel, never mixed.

    Args:
        size: side of the views in pixels.
        scale: least and greatest factor.
        flip: share of views that are mirrored.
        color: brightness, contrast and saturation are each multiplied by 1 - color .. 1 + color.
        most: a crop in which one class takes more than this share of the known pixels is drawn again, ten times at
            most; 1 for no such limit.
        unknown: the target of padding, and of pixels about which nothing is known.
        fill: the padding's colour, 0..255.
    """

    seed: int
    size: int
    scale: tuple[float, float]
    flip: float
    color: float
    most: float
    unknown: int
    fill: tuple[int, int, int]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], target: Shaped[np.ndarray, "H W"], position: int) -> View:
        random = np.random.Generator(np.random.Philox(key=np.array([self.seed, position], np.uint64)))
        short = self.size * random.uniform(*self.scale)
        shape = scaled_shape(target.shape[:2], short)
        for _ in range(_TRIES):
            corner = [int(random.integers(max(side - self.size, 0) + 1)) for side in shape]
            wanted = self._target(target, shape, corner)
            if self.most >= 1 or self._is_mixed(wanted):
                break
        pixels = resized(torch.from_numpy(image).permute(2, 0, 1), shape)
        pixels = pixels[:, corner[0] : corner[0] + self.size, corner[1] : corner[1] + self.size]
        return self._finished(pixels, torch.from_numpy(wanted), random)

    def _target(self, target: np.ndarray, shape: tuple[int, int], corner: list[int]) -> np.ndarray:
        """The crop of the resized target, by the nearest pixel."""
        rows, columns = (
            ((np.arange(start, min(start + self.size, new)) + 0.5) * old / new).astype(np.int64)
            for start, new, old in zip(corner, shape, target.shape)
        )
        return target[rows[:, None], columns]

    def _is_mixed(self, target: np.ndarray) -> bool:
        counts = np.unique(target[target != self.unknown], return_counts=True)[1]
        return len(counts) > 1 and bool(counts.max() <= self.most * counts.sum())

    def _finished(self, pixels: Tensor, target: Tensor, random: np.random.Generator) -> View:
        """Colours, padding to the right and below, mirrored or not."""
        flip, factors = random.random() < self.flip, random.uniform(1 - self.color, 1 + self.color, 3)
        if self.color:
            pixels = recolored(pixels, factors)
        height, width = target.shape
        whole = torch.tensor(self.fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, self.size, self.size)
        whole[:, :height, :width] = pixels
        target = F.pad(target, (0, self.size - width, 0, self.size - height), value=self.unknown)
        if flip:
            whole, target = whole.flip(-1), target.flip(-1)
        return View(whole.contiguous(), target.contiguous())


def scaled_shape(shape: tuple[int, int], short: float, multiple: int = 1) -> tuple[int, int]:
    """Height and width of an image once its short side is about `short`: multiples of `multiple`, at least one each."""
    factor = short / min(shape)
    height, width = (max(round(side * factor / multiple), 1) * multiple for side in shape)
    return height, width


def resized(pixels: UInt8[Tensor, "3 H W"], shape: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Bilinear, antialiased where it gets smaller."""
    if tuple(pixels.shape[1:]) == shape:
        return pixels
    return F.interpolate(pixels.unsqueeze(0), size=shape, mode="bilinear", antialias=True)[0]


def recolored(pixels: UInt8[Tensor, "3 H W"], factors: np.ndarray) -> UInt8[Tensor, "3 H W"]:
    """Brightness, contrast and saturation times these factors."""
    y = pixels.float().unsqueeze(0)
    for operation, factor in zip((levels.brightness, levels.contrast, levels.saturation), factors.tolist()):
        operation(y, torch.tensor(factor).view(1, 1, 1, 1))
    return y[0].to(torch.uint8)
