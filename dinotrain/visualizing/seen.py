"""One image as a backbone sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.evaluation.attention_maps import cls_attention
from dinotrain.evaluation.backbone import Backbone
from dinotrain.visualizing.fitting import fitted


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Tokens of the last block after the final norm, on the CPU; registers are left out."""

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    """As the network was shown it."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    patches: Float[Tensor, "N D"]
    """Row-major."""
    attention: Float[Tensor, "heads h w"]
    """Of the CLS token to the patches, in the last block."""

    @property
    def count(self) -> int:
        return len(self.patches)


def see(backbone: Backbone, name: str, image: UInt8[np.ndarray, "H W 3"], *, size: int, square: bool = False) -> Seen:
    """Show the network an image; positions are resized to its shape.

    Args:
        size: px, see `fitted`; also larger than what the network was trained at.
    """
    pixels = fitted(image, size=size, patch=backbone.patch_size, square=square)
    images = backbone.normalize(pixels.unsqueeze(0))
    patches = backbone.patches(images)[0]
    return Seen(
        name=name,
        pixels=pixels.permute(1, 2, 0).contiguous().numpy(),
        grid=(patches.shape[1], patches.shape[2]),
        patches=_finite(patches.flatten(1).T),
        attention=_finite(cls_attention(backbone.network, images)[0]),
    )


def _finite(x: Tensor) -> Tensor:
    """Half precision may overflow."""
    return torch.nan_to_num(x.float().cpu(), 0.0, 0.0, 0.0)
