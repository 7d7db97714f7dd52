"""Images of any shape as inputs of a network, whole and in their own aspect ratio."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

LONGEST = 16
"""Most times that a side is as long as the other; longer ones are squeezed."""


def fitted_grid(height: int, width: int, *, side: int) -> tuple[int, int]:
    """Rows and columns of patches for an image: about side x side of them, in the image's aspect ratio."""
    ratio = min(max(height / width, 1 / LONGEST), LONGEST)
    rows, columns = side * math.sqrt(ratio), side / math.sqrt(ratio)
    return max(round(rows), 1), max(round(columns), 1)


def fitted(image: UInt8[np.ndarray, "H W 3"], *, size: int, patch: int, square: bool) -> UInt8[Tensor, "3 h w"]:
    """The image with sides that are multiples of the patch size.

    Args:
        size: px; an image in its own aspect ratio gets about as many as a square of this side.
        square: take the middle square of it, as evaluations do.
    """
    height, width = image.shape[:2]
    if square:
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        image, height, width = image[top : top + short, left : left + short], short, short
    rows, columns = fitted_grid(height, width, side=size // patch)
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0)
    return F.interpolate(x, size=(rows * patch, columns * patch), mode="bicubic", antialias=True)[0]
