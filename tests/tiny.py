"""Tiny networks, batches and training states, small enough to train in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinotrain.data.batch import Batch
from dinotrain.models.head import Head
from dinotrain.models.init import initialize
from dinotrain.models.networks import Networks
from dinotrain.models.vit import VisionTransformer

DIM, PROTOTYPES, PATCH_PROTOTYPES = 16, 24, 20


def backbone(seed: int = 0, **changes: Any) -> VisionTransformer:
    """A backbone for 16 px images, with values that make every part matter."""
    sizes = {"image_size": 16, "patch_size": 4, "embed_dim": DIM, "depth": 2, "num_heads": 2, "layer_scale": 1.0}
    model = VisionTransformer(**{**sizes, **changes})
    initialize(model, seed, model.initial)
    _spread(model, seed)
    return model


def networks(seed: int = 0, *, shared: bool = False, meta: bool = False, **changes: Any) -> Networks:
    """A backbone and its heads; on the meta device they have no values yet."""
    sizes = {"image_size": 16, "patch_size": 4, "embed_dim": DIM, "depth": 2, "num_heads": 2, "layer_scale": 1.0}
    head = {"in_dim": DIM, "hidden_dim": 12, "bottleneck_dim": 8}
    with torch.device("meta" if meta else "cpu"):
        model = Networks(
            backbone=VisionTransformer(**{**sizes, **changes}),
            dino_head=Head(**head, num_prototypes=PROTOTYPES),
            ibot_head=None if shared else Head(**head, num_prototypes=PATCH_PROTOTYPES),
        )
    if not meta:
        model.initialize(seed)
        _spread(model, seed)
    return model


def _spread(model: torch.nn.Module, seed: int) -> None:
    """Matrices that are not nearly zero, so that small networks tell inputs apart."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0.0, 0.3, generator=generator)


def batch(images: int, *, seed: int = 0, local: int = 2, first: int = 0, count: int | None = None) -> Batch:
    """Images `first` to `first + count` of a batch drawn from a seed; half of the global crops are masked."""
    generator = torch.Generator().manual_seed(seed)
    part = slice(first, first + (images if count is None else count))
    global_crops = torch.randn(2, images, 3, 16, 16, generator=generator)[:, part]
    local_crops = torch.randn(local, images, 3, 8, 8, generator=generator)[:, part]
    masks = torch.rand(2, images, 16, generator=generator) < 0.4
    masks &= (torch.rand(2, images, 1, generator=generator) < 0.5) | (torch.arange(images)[:, None] == 0)
    return from_crops(global_crops, local_crops, masks[:, part])


def from_crops(global_crops: Tensor, local_crops: Tensor, masks: Tensor) -> Batch:
    counts = masks.sum(dim=-1, keepdim=True).clamp(min=1)
    return Batch(
        global_crops=global_crops,
        local_crops=local_crops,
        masks=masks,
        mask_indices=masks.flatten().nonzero().squeeze(1),
        mask_weights=(1.0 / counts).expand_as(masks)[masks],
        names=tuple(f"image {i}" for i in range(global_crops.shape[1])),
    )
