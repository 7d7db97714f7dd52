"""Images of which something is known at every pixel: the class, or the distance."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from dinotrain.data.source import Source
from dinotrain.errors import UserError

Target = Literal["masks", "depth"]

IGNORE = -1
"""In a mask, the number of pixels that have no class: they are neither learnt nor counted."""


class DenseSource(Source):
    """Images with a mask of classes, with depth, or with both.

    Masks and depth are taken to show the picture as it is displayed, that is with the camera's orientation (EXIF)
    undone, as `image` gives it. Nothing in a mask tells which way it was drawn, so none is turned: one of a photograph
    that lies on its side does not fit the upright picture, and is refused.
    """

    targets: tuple[Target, ...]
    """What is known of the pixels."""
    classes: tuple[str, ...] | None = None
    """Names of the classes of the masks, by number; None without masks."""
    max_depth: float | None = None
    """Metres up to which depth is learnt and measured; None without depth."""
    evaluation_crop: tuple[int, int, int, int] | None = None
    """Top, bottom, left, right of the part of every image in which depth is measured; None for all of it."""

    def mask(self, index: int) -> Int64[np.ndarray, "H W"]:
        """Class number of every pixel, `IGNORE` where it has none.

        Raises:
            BrokenImage: the mask can't be read.
            UserError: it holds a number that is no class.
        """
        raise UserError(f"data: {self.name(index)} has no mask, only {' and '.join(self.targets)}")

    def depth(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Distance of every pixel in metres, 0 where it is unknown or beyond `max_depth`.

        Raises:
            BrokenImage: it can't be read.
            UserError: what was read is no depth.
        """
        raise UserError(f"data: {self.name(index)} has no depth, only {' and '.join(self.targets)}")

    @abstractmethod
    def target_name(self, index: int, target: Target) -> str:
        """Printable name, on one line, that tells the user which mask or depth this is."""

    def pair(self, index: int, target: Target) -> tuple[UInt8[np.ndarray, "H W 3"], np.ndarray]:
        """The picture, upright, and its mask (int64 [H, W]) or its depth (float32 [H, W]).

        Raises:
            BrokenImage: one of them can't be read.
            UserError: they differ in size.
        """
        image = self.image(index)
        wanted = self.mask(index) if target == "masks" else self.depth(index)
        if image.shape[:2] != wanted.shape:
            raise UserError(f"data.root: {self._misfit(index, target, image.shape, wanted.shape)}")
        return image, wanted

    def test(self) -> DenseSource | None:
        """The source's own test split, None when it has none."""
        return None

    def _misfit(self, index: int, target: Target, image: tuple[int, ...], wanted: tuple[int, ...]) -> str:
        height, width = image[:2]
        turned = "; it must lie as the picture is displayed, with its EXIF orientation undone"
        return (
            f"{self.target_name(index, target)} is {wanted[1]}x{wanted[0]} px, "
            f"its image {self.name(index)} {width}x{height} px{turned if wanted == (width, height) else ''}"
        )
