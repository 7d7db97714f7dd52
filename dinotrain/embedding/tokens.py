"""Tokens of any layers of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from dinotrain.embedding.content import Column
from dinotrain.evaluation.backbone import Backbone

TokenFunction = Callable[[Tensor], dict[str, Tensor]]
"""Pixels, uint8 [B, 3, H, W] -> a float32 tensor [B, ...] on the backbone's device for the name of each column."""


def token_function(backbone: Backbone, columns: Sequence[Column]) -> TokenFunction:
    """The function that computes all columns in one pass through the network."""
    layers = sorted({column.layer for column in columns})
    half = backbone.dtype != torch.float32

    @torch.no_grad()
    def function(pixels: UInt8[Tensor, "B 3 H W"]) -> dict[str, Tensor]:
        images = backbone.normalize(pixels)
        with torch.autocast(backbone.device.type, backbone.dtype if half else torch.bfloat16, enabled=half):
            found = dict(zip(layers, backbone.network.intermediate(images, [-layer for layer in layers])))
        values = {}
        for column in columns:
            tokens = found[column.layer]
            value = tokens.cls if column.token == "cls" else tokens.patches
            values[column.name] = value.float().mean(dim=1) if column.token == "mean" else value.float()
        return values

    return function
