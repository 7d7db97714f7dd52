"""Weights as they were read: tensors with names of ours, and what is known of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dinotrain.weights.architecture import Architecture

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel of images in 0..1."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A backbone, and heads where the source holds any.

    Args:
        path: where they were read.
        layout: what was found there, in words.
        architecture: of the backbone.
        backbone: tensors by the names of `VisionTransformer`, as stored, on the CPU; some are read when asked for.
        heads: tensors by the names of `Head`, under "dino_head" and "ibot_head".
        normalization: of the images the backbone was trained on, where the source says.
        notes: what whoever reads them should know.
    """

    path: str
    layout: str
    architecture: Architecture
    backbone: Mapping[str, Tensor]
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    normalization: Normalization | None = None
    notes: tuple[str, ...] = ()

    def without_heads(self) -> Weights:
        """The backbone alone."""
        return replace(self, heads={})

    def digest(self) -> str:
        """A hash of names, shapes and values (as float32): the same for the same weights in any format."""
        hashed = hashlib.blake2b(digest_size=16)
        for part, tensors in sorted({"backbone": self.backbone, **self.heads}.items()):
            for name in sorted(tensors):
                value = tensors[name].detach().to(torch.float32).contiguous()
                hashed.update(f"{part}.{name} {tuple(value.shape)}\n".encode())
                hashed.update(value.numpy().data)
        return hashed.hexdigest()
