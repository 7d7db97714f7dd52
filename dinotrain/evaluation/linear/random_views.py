"""Random views of images for training linear classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from dinotrain.data.crops import MultiCrop
from dinotrain.data.order import sample_index, sample_rng
from dinotrain.evaluation.splits import Split

SCALE = (0.08, 1.0)
"""Least and greatest area of a view, as a share of its image."""
FLIP = 0.5
_STREAM = 6


class RandomViews:
    """An endless sequence of random resized crops, mirrored half the time, of a split's images.

    Every image once per epoch, in an order of its own; what stands at a position is a function of (seed, position).
    Crops have 8 to 100 % of the image's area and aspects of 3/4 to 4/3, resized bicubically with antialias (DINOv2,
    section 7.1, after Szegedy et al. 2015).

    Args:
        split: the images.
        size: side of the views in pixels.
        seed: of order and views.
    """

    def __init__(self, split: Split, *, size: int, seed: int) -> None:
        self.split, self.size, self.seed = split, size, seed
        self._crops = MultiCrop(global_size=size, num_local=0, global_scale=SCALE)

    def rows(self, positions: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """Row of the split that stands at each position."""
        return sample_index(positions, len(self.split), self.seed)

    def fetch(self, positions: Sequence[int]) -> None:
        """Told which positions are read next."""
        self.split.source.fetch(self.split.indices[self.rows(np.asarray(positions))].tolist())

    def view(self, position: int) -> UInt8[Tensor, "3 S S"]:
        """The view at a position; raises `BrokenImage` if its image can't be read."""
        rng = sample_rng(self.seed, position, _STREAM)
        draws, flip = self._crops.draw(rng), rng.random() < FLIP
        index = int(self.split.indices[self.rows(np.asarray([position]))[0]])
        image = self.split.source.image(index, lambda height, width: self._crops.admits(draws, height, width))
        return self._cut(image, draws, flip)

    def _cut(self, image: UInt8[np.ndarray, "H W 3"], draws: np.ndarray, flip: bool) -> UInt8[Tensor, "3 S S"]:
        top, left, high, wide = self._crops.boxes(draws, *image.shape[:2])[0]
        box = torch.from_numpy(image[top : top + high, left : left + wide]).permute(2, 0, 1).unsqueeze(0)
        view = F.interpolate(box, size=(self.size, self.size), mode="bicubic", antialias=True)[0]
        return view.flip(2) if flip else view
