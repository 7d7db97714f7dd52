"""What trained dense heads say of whole images: at several scales, mirrored, in windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.dense.head import DenseHead, upsampled
from dinotrain.evaluation.dense.views import resized, scaled_shape

_STRIP = 2**25
"""Numbers per strip of an image, 128 MiB in float32."""


class Look(NamedTuple):
    """One way to show an image to the network."""

    scale: float
    flip: bool


class DensePredictor:
    """Shows an image to the backbone in every way that a head asks for, once each.

    Args:
        features: what the heads take, see `train_heads`.
        size: the short side of an image is resized to it, times the scale of a look. Both sides are rounded to
            multiples of the patch size, so that nothing is padded.
        looks: for each head.
        window: square windows of at most `size` with a stride of two thirds, whose logits are averaged; else the whole
            image at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, DenseHead],
        features: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B C h w"]],
        *,
        size: int,
        looks: Mapping[str, Sequence[Look]],
        window: bool,
    ) -> None:
        self.backbone, self.heads, self.features = backbone, heads, features
        self.size, self.looks, self.window = size, looks, window
        self.all_looks = sorted({look for wanted in looks.values() for look in wanted})

    @torch.no_grad()
    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> dict[str, list[Float[Tensor, "K _ _"]]]:
        """Logits of each head on the patch grid of each of its looks, mirrored back.

        The backbone is called as often for every image, as sharded networks need.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        for look in self.all_looks:
            names = [name for name, looks in self.looks.items() if look in looks]
            for name, logits in self._seen(image, look, names).items():
                found[name].append(logits)
        return found

    def _seen(self, image: np.ndarray, look: Look, names: list[str]) -> dict[str, Float[Tensor, "K h w"]]:
        patch = self.backbone.patch_size
        shape = scaled_shape(image.shape[:2], self.size * look.scale, patch)
        pixels = resized(torch.from_numpy(image).permute(2, 0, 1), shape)
        pixels = pixels.flip(-1) if look.flip else pixels
        height, width = (side // patch for side in shape)
        most = self.size // patch if self.window else max(height, width)
        corners = [(top, left) for top in window_starts(height, most) for left in window_starts(width, most)]
        reach = most * patch
        views = [pixels[:, top * patch :, left * patch :][:, :reach, :reach] for top, left in corners]
        features = self.features(self.backbone.normalize(torch.stack(views)))
        maps = {name: _joined(self.heads[name](features), corners, (height, width)) for name in names}
        return {name: logits.flip(-1) if look.flip else logits for name, logits in maps.items()}


def window_starts(length: int, window: int) -> list[int]:
    """Where windows start that together cover a length; neighbours are at most two thirds of a window apart."""
    stride = max(2 * window // 3, 1)
    count = -(-max(length - window, 0) // stride) + 1
    return [min(number * stride, max(length - window, 0)) for number in range(count)]


def _joined(
    logits: Float[Tensor, "n K r s"], corners: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> Float[Tensor, "K h w"]:
    """The mean of the windows at every patch."""
    total = logits.new_zeros(logits.shape[1], *shape)
    count = logits.new_zeros(shape)
    rows, columns = logits.shape[-2:]
    for part, (top, left) in zip(logits, corners):
        total[:, top : top + rows, left : left + columns] += part
        count[top : top + rows, left : left + columns] += 1
    return total / count


def most_probable(maps: Sequence[Float[Tensor, "K _ _"]], shape: tuple[int, int]) -> Int64[Tensor, "H W"]:
    """The class of the greatest mean probability at every pixel, from logits on several grids."""
    rows = max(_STRIP // (maps[0].shape[0] * shape[1]), 1)
    strips = []
    for start in range(0, shape[0], rows):
        part = slice(start, start + rows)
        total = torch.zeros((), device=maps[0].device)
        for logits in maps:
            total = total + upsampled(logits, shape, part).softmax(dim=0)
        strips.append(total.argmax(dim=0))
    return torch.cat(strips)
