"""Pictures of what a backbone sees: patch tokens as colours, and CLS attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.evaluation.attention_maps import cls_attention
from dinotrain.evaluation.features import Preparation
from dinotrain.models.vit import VisionTransformer


def pca_colors(patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B N 3"]:
    """The first three principal components of all patch tokens together, each stretched to [0, 1]."""
    return component_colors(patches.flatten(0, 1)).view(*patches.shape[:2], 3)


def component_colors(tokens: Float[Tensor, "T D"]) -> Float[Tensor, "T 3"]:
    """The same of tokens in one row, of images of any shapes."""
    projected = components(tokens, 3)
    low, high = (torch.quantile(projected, q, dim=0) for q in (0.02, 0.98))
    return ((projected - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def components(tokens: Float[Tensor, "T D"], count: int) -> Float[Tensor, "T count"]:
    """The first principal components of tokens, the largest first."""
    # A decomposition raises on NaN; features that overflowed in fp16 must not end a run for a picture.
    flat = tokens.double().nan_to_num(0.0, 0.0, 0.0)
    flat = flat - flat.mean(dim=0)
    directions = torch.linalg.eigh(flat.T @ flat)[1].T.flip(0)[:count]
    # The signs are open; fixed, the colours of one run stay comparable.
    directions = directions * directions.sum(dim=1, keepdim=True).sign()
    return (flat @ directions.T).float()


@torch.no_grad()
def feature_picture(
    backbone: VisionTransformer, pixels: UInt8[Tensor, "B 3 S S"], preparation: Preparation, *, cell: int = 96
) -> UInt8[np.ndarray, "H W 3"]:
    """A contact sheet with three rows: images, patch tokens as PCA colours, mean CLS attention of the last block."""
    was_training = backbone.training
    backbone.eval()
    images = preparation.normalize(pixels)
    patches = backbone([images])[0].patches
    attention = cls_attention(backbone, images).mean(dim=1, keepdim=True)
    backbone.train(was_training)
    side = preparation.size // backbone.patch_size
    colors = pca_colors(patches).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    low, high = attention.amin(dim=(2, 3), keepdim=True), attention.amax(dim=(2, 3), keepdim=True)
    attention = (attention - low) / (high - low).clamp(min=1e-12)
    rows = [pixels.float() / 255, colors, attention.expand(-1, 3, -1, -1)]
    tiles = [F.interpolate(row.cpu(), size=(cell, cell), mode="nearest") for row in rows]
    sheet = torch.cat([_line(row) for row in tiles], dim=1)
    return (sheet.permute(1, 2, 0) * 255).round().byte().numpy()


def _line(tiles: Float[Tensor, "B 3 c c"], gap: int = 4) -> Float[Tensor, "3 H W"]:
    """Tiles beside each other on white."""
    return torch.cat([F.pad(tile, (0, gap, 0, gap), value=1.0) for tile in tiles], dim=2)


def save_picture(picture: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write a PNG, making its folder."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
