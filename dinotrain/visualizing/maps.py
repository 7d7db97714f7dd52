"""Numbers per patch as pictures: small ones with a pixel per patch, and large ones over the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dinotrain.visualizing.colors import Colored

STRENGTH = 0.6
"""Of a map over an image."""
_COLORS = "magma"


def heat(
    values: Float[Tensor, "h w"], low: float | None = None, high: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Dark for low, bright for high, from the least to the greatest value unless other ends are given."""
    array = values.float().numpy()
    low, high = float(array.min()) if low is None else low, float(array.max()) if high is None else high
    level = np.clip((array - low) / max(high - low, 1e-12), 0, 1)
    return palette()[np.rint(level * 255).astype(int)]


def pca_map(colored: Colored) -> UInt8[np.ndarray, "h w 4"]:
    """Colours of an image's patches; background is transparent."""
    colors = (colored.colors * 255).round().byte().numpy()
    return np.concatenate([colors, colored.shown.numpy()[:, :, None].astype(np.uint8) * 255], axis=2)


def enlarged(
    small: UInt8[np.ndarray, "h w c"], shape: Sequence[int], *, smooth: bool = False
) -> UInt8[np.ndarray, "H W 3"]:
    """A map in the size of its image, transparent patches black."""
    if small.shape[2] == 4:
        small = small[:, :, :3] * (small[:, :, 3:] > 0)
    filtering = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(small)).resize((shape[1], shape[0]), filtering))


def over(pixels: UInt8[np.ndarray, "H W 3"], small: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "H W 3"]:
    """A map over its image; where it is transparent, the image is darkened."""
    large = enlarged(small, pixels.shape, smooth=small.shape[2] == 3)
    return np.rint(pixels * (1 - STRENGTH) + large * STRENGTH).astype(np.uint8)


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of `heat`, from low to high."""
    from matplotlib import colormaps

    return np.rint(colormaps[_COLORS](np.arange(256))[:, :3] * 255).astype(np.uint8)
