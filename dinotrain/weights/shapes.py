"""Shapes of tensors by name: all that is needed to tell what they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dinotrain.weights.checkpoint_tensors import CheckpointTensors

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """The shapes of tensors, without reading any."""
    if isinstance(tensors, CheckpointTensors):
        return tensors.shapes
    return {name: tuple(value.shape) for name, value in tensors.items()}
