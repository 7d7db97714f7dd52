"""The networks that `hubconf.py` gives out, which answer as the released ones do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinotrain.models.packing import full_branch
from dinotrain.models.vit import VisionTransformer


class HubBackbone(VisionTransformer):
    """A backbone that is called as those of DINOv2 are: `network(images)` is the CLS token after the final norm."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Float[Tensor, "B C H W"],
        masks: Bool[Tensor, "B N"] | None = None,
        is_training: bool = False,
    ) -> Float[Tensor, "B D"] | dict[str, Any]:
        """The CLS token; with `is_training`, everything that `forward_features` gives."""
        found = self.forward_features(images, masks)
        return found if is_training else found["x_norm_clstoken"]

    def forward_features(
        self, images: Float[Tensor, "B C H W"], masks: Bool[Tensor, "B N"] | None = None
    ) -> dict[str, Any]:
        """Tokens after the final norm by kind, all of them before it (CLS, registers, patches), and the masks."""
        x = self.tokenize(images, masks)
        shape = x.shape
        every = full_branch(((shape[0], shape[1]),))
        x = x.flatten(0, 1)
        for block in self.blocks:
            x = block(x, every, every)
        x = x.reshape(shape)
        normed, first = self.norm(x), 1 + self.num_registers
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first],
            "x_norm_patchtokens": normed[:, first:],
            "x_prenorm": x,
            "masks": masks,
        }

    def get_intermediate_layers(
        self,
        x: Float[Tensor, "B C H W"],
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """Patch tokens of some blocks, the last one last.

        Args:
            x: normalised images.
            n: how many of the last blocks, or their numbers from 0, in any order.
            reshape: patches as [B, D, h, w] instead of [B, N, D].
            return_class_token: a pair of patches and CLS token for each.
            norm: through the final norm.

        Raises:
            ValueError: for blocks that there are not.
        """
        blocks = list(range(self.depth - n, self.depth)) if isinstance(n, int) else sorted(n)
        if not blocks or blocks[0] < 0:
            raise ValueError(f"n: got {n}, expected at most {self.depth}, or numbers in 0..{self.depth - 1}")
        grid = [side // self.patch_size for side in x.shape[-2:]]
        found = self.intermediate(x, blocks, norm=norm)
        patches = [
            each.patches.transpose(1, 2).unflatten(2, grid).contiguous() if reshape else each.patches for each in found
        ]
        return tuple(zip(patches, (each.cls for each in found))) if return_class_token else tuple(patches)


class HubClassifier(nn.Module):
    """A backbone and a linear head on it, as the released linear classifiers.

    Args:
        backbone: whose tokens the head takes.
        linear_head: on the CLS tokens of the last `layers` blocks, the last one last, and the mean patch token.
        layers: 1 or 4 in the released ones.
    """

    def __init__(self, *, backbone: HubBackbone, linear_head: nn.Linear, layers: int = 4) -> None:
        super().__init__()
        self.backbone, self.linear_head, self.layers = backbone, linear_head, layers

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:
        """Scores of the classes, before softmax or sigmoid."""
        found = self.backbone.get_intermediate_layers(images, self.layers, return_class_token=True)
        return self.linear_head(torch.cat([*(cls for _, cls in found), found[-1][0].mean(dim=1)], dim=1))
