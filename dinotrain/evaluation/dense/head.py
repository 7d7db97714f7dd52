"""A linear layer on patch tokens: all that is trained for segmentation and depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_INIT_STD = 0.01


class DenseHead(nn.Module):
    """The same linear map at every patch (DINOv2, arXiv:2304.07193, section 7.4).

    Args:
        channels: of the features it takes: the last so many of those it is given, so that heads on fewer blocks can be
            trained along with others (see `Backbone.patches`).
        outputs: classes, or bins.
        normalize: a BatchNorm without padding or groups before the linear map, as for segmentation.
        seed: of the weights.
    """

    def __init__(self, channels: int, outputs: int, *, normalize: bool, seed: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.BatchNorm2d(channels) if normalize else nn.Identity()
        self.linear = nn.Conv2d(channels, outputs, kernel_size=1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=_INIT_STD, generator=generator)
        assert self.linear.bias is not None
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        return self.linear(self.norm(features[:, -self.channels :]))


def upsampled(x: Float[Tensor, "*B h w"], shape: tuple[int, int], rows: slice = slice(None)) -> Float[Tensor, "*B r W"]:
    """Bilinear resizing, or just these rows of the result.

    Two matrix products: other than `interpolate`, it is deterministic on every device, and can be done in strips.
    """
    height, width = (_weights(old, new, x) for old, new in zip(x.shape[-2:], shape))
    return height[rows] @ (x @ width.T)


def _weights(old: int, new: int, like: Tensor) -> Float[Tensor, "new old"]:
    basis = torch.eye(old, device=like.device, dtype=like.dtype)
    return F.interpolate(basis.unsqueeze(0), size=new, mode="linear", align_corners=False)[0].T
