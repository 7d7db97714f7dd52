"""Multi-crop: which parts of an image become crops, cut out and resized to bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, UInt8
from torch import Tensor

from dinotrain.data import arguments

_TRIES = 10  # boxes drawn before the fallback to the middle of the image
_GEOMETRY_DRAWS = 4  # random numbers per box: area, aspect, top, left

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""


class MultiCrop:
    """Cuts 2 global and some local crops from an image (SwAV, arXiv:2006.09882; DINOv2, arXiv:2304.07193, appendix B).

    The random numbers are drawn before the size of the image is known, so that they can help to choose the size at
    which it is decoded: `draw`, then `admits`, then `cut`. What is done to the colours of the crops says
    `dinotrain.data.augment.Augment`.

    Args:
        global_size, local_size: side of the crops in pixels.
        num_local: number of local crops, may be 0.
        global_scale, local_scale: least and greatest area of a crop, as a share of the image.
        ratio: least and greatest width / height of what is cut out, drawn log-uniformly.
    """

    def __init__(
        self,
        *,
        global_size: int = 224,
        local_size: int = 98,
        num_local: int = 8,
        global_scale: Sequence[float] = (0.32, 1.0),
        local_scale: Sequence[float] = (0.05, 0.32),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        self.global_size = arguments.whole("global_size", global_size, 1)
        self.local_size = arguments.whole("local_size", local_size, 1)
        self.num_local = arguments.whole("num_local", num_local, 0)
        self._sizes = [self.global_size] * 2 + [self.local_size] * self.num_local
        scales = {"global_scale": global_scale, "local_scale": local_scale}
        of_global, of_local = (arguments.interval(name, value, 1.0) for name, value in scales.items())
        self._scales = [of_global] * 2 + [of_local] * self.num_local
        least, greatest = self._ratio = arguments.interval("ratio", ratio)
        self._log_ratio = math.log(least), math.log(greatest)

    def draw(self, rng: np.random.Generator) -> Float64[np.ndarray, "tries V 4"]:
        """Random numbers in 0..1 of the boxes of one image, global crops first; always as many."""
        return rng.random((_TRIES, len(self._scales), _GEOMETRY_DRAWS))

    def boxes(self, draws: Float64[np.ndarray, "tries V 4"], height: int, width: int) -> list[Box]:
        """Where the crops are cut: the first try that lies within the image, of tries that are uniform in area."""
        boxes: list[Box | None] = [
            self._box(numbers, scale, height, width) for numbers, scale in zip(draws[0].tolist(), self._scales)
        ]
        for view, scale in enumerate(self._scales):
            later = iter(range(1, _TRIES))
            while boxes[view] is None:
                attempt = next(later, None)
                if attempt is None:
                    boxes[view] = self._middle(height, width)
                else:
                    boxes[view] = self._box(draws[attempt, view].tolist(), scale, height, width)
        return [box for box in boxes if box is not None]

    def admits(self, draws: Float64[np.ndarray, "tries V 4"], height: int, width: int) -> bool:
        """Whether no crop of an image of this size would have to be enlarged.

        An image whose size at half the scale is admitted need not be decoded at its full size.
        """
        if min(height, width) < self.global_size:  # for most images all that has to be asked
            return False
        boxes = self.boxes(draws, height, width)
        return all(min(high, wide) >= size for (_, _, high, wide), size in zip(boxes, self._sizes))

    def cut(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        draws: Float64[np.ndarray, "tries V 4"],
        global_out: UInt8[Tensor, "2 S S 3"] | UInt8[np.ndarray, "2 S S 3"],
        local_out: UInt8[Tensor, "L s s 3"] | UInt8[np.ndarray, "L s s 3"],
    ) -> None:
        """Write the crops of one image to where they belong in a batch."""
        self.fill(image, draws, crop_places(torch.as_tensor(global_out), torch.as_tensor(local_out)))

    def fill(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        draws: Float64[np.ndarray, "tries V 4"],
        places: Sequence[UInt8[Tensor, "1 3 _ _"]],
    ) -> None:
        """Write the crops of one image to their places (of `crop_places`), global crops first."""
        height, width, _ = image.shape
        pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"]))
        row = width * 3
        boxes = self.boxes(draws, height, width)
        for (top, left, high, wide), place in zip(boxes, places, strict=True):
            # A view of the box in one go: slicing takes several times as long.
            box = pixels.as_strided((1, 3, high, wide), (height * row, 1, row, 3), top * row + left * 3)
            _resize(box, place)

    def _box(self, numbers: list[float], scale: tuple[float, float], height: int, width: int) -> Box | None:
        area = height * width * (scale[0] + numbers[0] * (scale[1] - scale[0]))
        aspect = math.exp(self._log_ratio[0] + numbers[1] * (self._log_ratio[1] - self._log_ratio[0]))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < wide <= width and 0 < high <= height):
            return None
        return int(numbers[2] * (height - high + 1)), int(numbers[3] * (width - wide + 1)), high, wide

    def _middle(self, height: int, width: int) -> Box:
        """The largest box in the middle of the image with an aspect that is allowed."""
        high, wide = height, width
        if width / height < self._ratio[0]:
            high = min(height, round(width / self._ratio[0]))
        elif width / height > self._ratio[1]:
            wide = min(width, round(height * self._ratio[1]))
        return (height - high) // 2, (width - wide) // 2, max(1, high), max(1, wide)


# The function under F.interpolate, which can write to a given place; not part of PyTorch's public interface.
_BICUBIC = getattr(getattr(torch._C, "_nn", None), "_upsample_bicubic2d_aa", None)


def _resize(pixels: UInt8[Tensor, "1 3 h w"], out: UInt8[Tensor, "1 3 S S"]) -> None:
    """Bicubic resize with antialias, as Pillow does it.

    Bytes that lie channels-last in memory, as both arguments do, are what PyTorch has its fast kernel for.
    """
    if _BICUBIC is None:
        out.copy_(F.interpolate(pixels, out.shape[-2:], mode="bicubic", antialias=True))
    else:
        _BICUBIC(pixels, out.shape[-2:], False, None, None, out=out)


def crop_places(
    global_out: UInt8[Tensor, "2 S S 3"], local_out: UInt8[Tensor, "L s s 3"]
) -> list[UInt8[Tensor, "1 3 _ _"]]:
    """Views of the memory that the crops of one image are written to."""
    views = [*global_out.permute(0, 3, 1, 2).split(1)]
    # A split of nothing is not nothing.
    return views + [*local_out.permute(0, 3, 1, 2).split(1)] if len(local_out) else views
