"""A pre-trained network that is looked at and never changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinotrain.models.networks import BackboneNetworks, Networks, Scores
from dinotrain.models.vit import Tokens

Normalization = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, of images in 0..1."""


class FrozenTeacher:
    """Takes the student's images as they are, and shows them to the networks as those were trained to see them.

    Args:
        networks: backbone, with its heads or without; in evaluation mode, without gradients.
        size: side in px that images are resized to before the teacher sees them; None for their own, or the nearest
            that its patches fit.
        seen: how the images that come are normalised.
        wanted: how the teacher's images were; None for the same.
    """

    def __init__(
        self, networks: BackboneNetworks, *, size: int | None, seen: Normalization, wanted: Normalization | None = None
    ) -> None:
        self.networks, self.size = networks, size
        self._affine = None
        if wanted is not None and not _equal(seen, wanted):
            device = next(networks.parameters()).device
            self._affine = tuple(torch.tensor(x, device=device).view(1, -1, 1, 1) for x in _between(seen, wanted))

    @torch.no_grad()
    def backbone(self, images: Sequence[Float[Tensor, "_ C _ _"]]) -> list[Tokens]:
        """Tokens after the final norm, for every group of equal-sized images."""
        return self.networks.backbone([self._prepared(group) for group in images])

    @torch.no_grad()
    def scores(self, cls: Float[Tensor, "R D"], patches: Float[Tensor, "M D"]) -> Scores:
        """Prototype scores of both kinds of tokens."""
        assert isinstance(self.networks, Networks)
        return self.networks.scores(cls, patches)

    def _prepared(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C S S"]:
        if self._affine is not None:
            scale, shift = self._affine
            images = images * scale + shift
        patch, side = self.networks.backbone.patch_size, images.shape[-1]
        size = self.size or max(round(side / patch), 1) * patch
        return images if side == size else F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)


def _equal(one: Normalization, other: Normalization) -> bool:
    return all(list(a) == list(b) for a, b in zip(one, other))


def _between(seen: Normalization, wanted: Normalization) -> tuple[list[float], list[float]]:
    """Scale and shift per channel from one normalisation to the other."""
    scale = [a / b for a, b in zip(seen[1], wanted[1])]
    shift = [(a - b) / c for a, b, c in zip(seen[0], wanted[0], wanted[1])]
    return scale, shift
