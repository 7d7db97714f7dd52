"""From weights in any format to a frozen backbone on its device."""

from __future__ import annotations

import torch

from dinotrain.distributed.parallelize import DTYPES
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.fit import load_into
from dinotrain.weights.weights import IMAGENET, Weights


def frozen_backbone(
    weights: Weights,
    *,
    device: torch.device,
    size: int,
    crop_fraction: float,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    precision: str = "auto",
) -> Backbone:
    """The network with its weights, whole on this device.

    Args:
        size: px of its input, a multiple of the patch size.
        mean, std: of images in 0..1; None for what the source of the weights says, or else ImageNet's.
        precision: "auto" is fp16 on CUDA and fp32 on a CPU.

    Raises:
        UserError: if the weights don't fit their network, or see other images than RGB.
    """
    architecture = weights.architecture
    if architecture.channels != 3:
        raise UserError(f"weights: {weights.path} sees {architecture.channels} channels; expected 3, for RGB images")
    known_mean, known_std = weights.normalization or IMAGENET
    preparation = Preparation(
        size=size,
        crop_fraction=crop_fraction,
        mean=_three(mean or known_mean),
        std=_three(std or known_std),
    )
    with torch.device("meta"):
        network = VisionTransformer(**architecture.arguments())
    network.requires_grad_(False).eval().to_empty(device=device)
    load_into(network, weights.backbone, path=weights.path, what="the backbone")
    name = ("fp16" if device.type == "cuda" else "fp32") if precision == "auto" else precision
    dtype = DTYPES[name]
    select_attention(network, available_backends(device, dtype, architecture.embed_dim // architecture.num_heads)[-1])
    return Backbone(network, preparation, dtype=dtype)


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    one, two, three = values
    return one, two, three
