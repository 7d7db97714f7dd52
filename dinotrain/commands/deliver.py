"""What a finished run hands over: its backbone in one file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinotrain.commands.settings import Settings
from dinotrain.distributed.world import World
from dinotrain.training.state import TrainState
from dinotrain.weights.runs import EXPORT, configured_architecture, write_backbone
from dinotrain.weights.shapes import shapes_of


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
        architecture = configured_architecture(settings.config.model, shapes_of(tensors))
        write_backbone(path, tensors, architecture, (tuple(data.mean), tuple(data.std)))
    return path


@torch.no_grad()
def _whole(parameter: Tensor) -> Tensor:
    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return whole.detach().cpu()
