"""A backbone and its heads, or projections: what student and teacher each consist of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.head import Head
from dinotrain.models.init import initialize
from dinotrain.models.projection import Projection
from dinotrain.models.vit import VisionTransformer

HEADS = ("dino_head", "ibot_head")
"""The children of `Networks` that give prototype scores; the second only where patches have prototypes of their own."""


class Scores(NamedTuple):
    """Prototype scores of CLS tokens and of patch tokens."""

    cls: Float[Tensor, "R K"]
    patches: Float[Tensor, "M J"]


class BackboneNetworks(nn.Module):
    """A backbone with whatever is trained beside it; on its own, a backbone alone."""

    def __init__(self, *, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def initialize(self, seed: int) -> None:
        """Fill all parameters, the same for any sharding."""
        for name, child in self.named_children():
            assert isinstance(child, VisionTransformer | Head | Projection)
            initialize(child, seed, child.initial, name=name)


class Networks(BackboneNetworks):
    """Backbone, DINO head and, where patches have prototypes of their own, iBOT head."""

    def __init__(self, *, backbone: VisionTransformer, dino_head: Head, ibot_head: Head | None = None) -> None:
        super().__init__(backbone=backbone)
        self.dino_head = dino_head
        self.ibot_head = ibot_head

    def scores(self, cls: Float[Tensor, "R D"], patches: Float[Tensor, "M D"]) -> Scores:
        """Scores of both kinds of tokens; one pass where they share a head.

        Every head runs on every process, on no rows if need be: sharded modules must be called together.
        """
        if self.ibot_head is not None:
            return Scores(self.dino_head(cls), self.ibot_head(patches))
        both = self.dino_head(torch.cat([cls, patches]))
        return Scores(*both.split([cls.shape[0], patches.shape[0]]))


class FeatureNetworks(BackboneNetworks):
    """Backbone, and projections of its tokens to the width of another network."""

    def __init__(
        self, *, backbone: VisionTransformer, cls_projection: Projection, patch_projection: Projection
    ) -> None:
        super().__init__(backbone=backbone)
        self.cls_projection = cls_projection
        self.patch_projection = patch_projection
