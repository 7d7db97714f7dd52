"""What a finished run hands over: its backbone in one file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinotrain.commands.settings import Settings
from dinotrain.distributed.world import World
from dinotrain.models.vit import VisionTransformer
from dinotrain.training.state import TrainState
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.runs import EXPORT, write_backbone


def deliver(settings: Settings, state: TrainState, world: World) -> Path:
    """Write the backbone of the moving average to the run folder; all processes together, one tensor at a time."""
    backbone, data = state.ema.get_submodule("backbone"), settings.config.data
    tensors: dict[str, Tensor] = {}
    for name, parameter in backbone.named_parameters():
        whole = _whole(parameter)
        if world.main:
            tensors[name] = whole
    path = settings.run_dir / EXPORT
    if world.main:
        write_backbone(path, tensors, _architecture(settings, backbone), (tuple(data.mean), tuple(data.std)))
    return path


@torch.no_grad()
def _whole(parameter: Tensor) -> Tensor:
    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return whole.detach().cpu()


def _architecture(settings: Settings, backbone: torch.nn.Module) -> Architecture:
    assert isinstance(backbone, VisionTransformer)
    model = settings.config.model
    return Architecture(
        image_size=backbone.image_size,
        patch_size=backbone.patch_size,
        channels=backbone.channels,
        embed_dim=backbone.embed_dim,
        depth=backbone.depth,
        num_heads=backbone.num_heads,
        ffn=model.ffn,
        ffn_ratio=model.ffn_ratio,
        num_registers=backbone.num_registers,
        layer_scale=model.layer_scale is not None,
        position_resize=backbone.position_resize,
        norm_eps=model.get("norm_eps", 1e-6),
    )
