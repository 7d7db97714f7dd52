"""A frozen backbone, ready to be asked for features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.evaluation.features import Preparation
from dinotrain.models.vit import VisionTransformer

PATCH = "patch_1"
MOST_BLOCKS = 4


def cls_part(block: int) -> str:
    """The name of the CLS token of the block that is so many from the end, 1 for the last."""
    return f"cls_{block}"


class Backbone:
    """Features of a network that is not trained; no gradients, evaluation mode.

    Args:
        network: on its device.
        preparation: how images enter it.
        dtype: matrix products are computed in it; float32 leaves everything as the network does it.
    """

    def __init__(
        self, network: VisionTransformer, preparation: Preparation, *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.network, self.preparation, self.dtype = network, preparation, dtype
        self.device = next(network.parameters()).device
        self.dim, self.depth, self.patch_size = network.embed_dim, network.depth, network.patch_size

    @property
    def blocks(self) -> int:
        """How many of the last blocks features can be asked of: four, or all of a network with fewer."""
        return min(self.depth, MOST_BLOCKS)

    def normalize(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Pixels as the network takes them, on its device."""
        return self.preparation.normalize(pixels.to(self.device))

    def pooled(self, images: Float[Tensor, "B 3 H W"], parts: Sequence[str]) -> dict[str, Float[Tensor, "B D"]]:
        """One vector per image for each part, float32, after the final norm.

        Args:
            images: normalised.
            parts: "cls_1" (CLS of the last block), "cls_2" and so on; "patch_1" (mean patch token of the last block).
        """
        deepest = max((int(part.removeprefix("cls_")) for part in parts if part != PATCH), default=1)
        tokens = self._tokens(images, deepest)
        found = {cls_part(number): token.cls for number, token in enumerate(reversed(tokens), start=1)}
        found[PATCH] = tokens[-1].patches.float().mean(dim=1)
        return {part: found[part].float() for part in parts}

    def patches(
        self, images: Float[Tensor, "B 3 H W"], blocks: int = 1, *, cls: bool = False
    ) -> Float[Tensor, "B C h w"]:
        """Patch tokens of the last blocks after the final norm, concatenated over channels, the last block last.

        With `cls`, each block's CLS token is concatenated to all of its patch tokens: C = 2 * blocks * D.
        """
        grid = [side // self.patch_size for side in images.shape[-2:]]
        parts = []
        for tokens in self._tokens(images, blocks):
            parts.append(tokens.patches)
            if cls:
                parts.append(tokens.cls.unsqueeze(1).expand_as(tokens.patches))
        return torch.cat(parts, dim=2).float().transpose(1, 2).unflatten(2, grid)

    @torch.no_grad()
    def _tokens(self, images: Tensor, blocks: int) -> list:
        was_training = self.network.training
        self.network.eval()
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if half else torch.bfloat16, enabled=half):
            # A sharded network is best called as a whole.
            found = (
                self.network([images]) if blocks == 1 else self.network.intermediate(images, list(range(-blocks, 0)))
            )
        self.network.train(was_training)
        return found
