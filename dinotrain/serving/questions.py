"""What can be asked about images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dinotrain.evaluation.attention_maps import cls_attention
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.pictures import pca_colors
from dinotrain.predicting.model import Model

SCORE, EMBED, PICTURES = "score", "embed", "pictures"
PARTS = {"cls": "cls_1", "patch_mean": "patch_1"}
"""Names of embeddings here, and in `Backbone.pooled`."""

MOST_PATCHES = 32
"""On a side of what pictures are made of."""


class Views(NamedTuple):
    """What the network sees in an image, in levels of grey or colour."""

    image: UInt8[np.ndarray, "S S 3"]
    """What of it enters."""
    pca: UInt8[np.ndarray, "s s 3"]
    """The first three principal components of the patch tokens, as colours."""
    attention: UInt8[np.ndarray, "heads s s"]
    """Of the CLS token in the last block; each map from its least to its greatest."""


class Questions:
    """Asks a model; for one thread.

    Args:
        model: to ask.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        patch, usual = model.backbone.patch_size, model.preparation
        # Twice as fine as usual shows more, and still is what the network has learned to see.
        self._fine = replace(usual, size=patch * max(min(2 * usual.size // patch, MOST_PATCHES), usual.size // patch))

    def preparation(self, kind: str) -> Preparation:
        """From an image to what `__call__` takes for this kind."""
        return self._fine if kind == PICTURES else self._model.preparation

    def __call__(self, kind: str, pixels: UInt8[Tensor, "B 3 S S"]) -> Sequence[Any]:
        """A result for each image: probabilities, embeddings [parts, D], or `Views`."""
        if kind == SCORE:
            return list(self._model.probabilities(pixels))
        if kind == EMBED:
            return list(self._model.embeddings(pixels, list(PARTS.values())))
        return [self._views(image) for image in pixels]

    def _views(self, pixels: UInt8[Tensor, "3 S S"]) -> Views:
        backbone = self._model.backbone
        images = backbone.normalize(pixels[None])
        patches = backbone.patches(images)
        colors = pca_colors(patches.flatten(2).transpose(1, 2)).unflatten(1, patches.shape[-2:])[0]
        attention = cls_attention(backbone.network, images)[0].float()
        low, high = (edge(dim=(1, 2), keepdim=True) for edge in (attention.amin, attention.amax))
        levels = (attention - low) / (high - low).clamp(min=1e-12)
        return Views(pixels.permute(1, 2, 0).numpy(), _bytes(colors), _bytes(levels))


def _bytes(levels: Tensor) -> np.ndarray:
    return (levels.nan_to_num(0.0) * 255).round().to(torch.uint8).cpu().numpy()


def png(levels: UInt8[np.ndarray, "*shape"]) -> bytes:
    """A picture in grey or colour as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(out, "PNG")
    return out.getvalue()
