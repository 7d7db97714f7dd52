"""A backbone and its heads: what the student and the teacher each consist of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.models.head import Head
from dinotrain.models.init import initialize
from dinotrain.models.vit import VisionTransformer


class Scores(NamedTuple):
    """Prototype scores of CLS tokens and of patch tokens."""

    cls: Float[Tensor, "R K"]
    patches: Float[Tensor, "M J"]


class Networks(nn.Module):
    """Backbone, DINO head and, where patches have prototypes of their own, iBOT head."""

    def __init__(self, *, backbone: VisionTransformer, dino_head: Head, ibot_head: Head | None = None) -> None:
        super().__init__()
        self.backbone = backbone
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

    def initialize(self, seed: int) -> None:
        """Fill all parameters, the same for any sharding."""
        for name, child in self.named_children():
            assert isinstance(child, VisionTransformer | Head)
            initialize(child, seed, child.initial, name=name)
