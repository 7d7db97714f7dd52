"""Weights as they were read: tensors with names of ours, and what is known of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel of images in 0..1."""

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What images are normalised with where weights say nothing: all public DINO and DINOv2 weights were."""

MASK_TOKEN = "mask_token"


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
        input: size in px and crop fraction of the images it is meant for, where the source says.
        notes: what whoever reads them should know.
    """

    path: str
    layout: str
    architecture: Architecture
    backbone: Mapping[str, Tensor]
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    normalization: Normalization | None = None
    input: tuple[int, float] | None = None
    notes: tuple[str, ...] = ()

    def without_heads(self) -> Weights:
        """The backbone alone."""
        return replace(self, heads={})

    def without_tensors(self) -> Weights:
        """What is known of them, without the memory they take."""
        return replace(self, backbone={}, heads={})

    def digest(self) -> str:
        """A hash of names, shapes and values (as float32): the same for the same weights in any format.

        The mask token is left out: it plays no part in what a network makes of whole images, and formats without one
        are read with zeros.
        """
        hashed = hashlib.blake2b(digest_size=16)
        for part, tensors in sorted({"backbone": self.backbone, **self.heads}.items()):
            for name in sorted(set(tensors) - {MASK_TOKEN}):
                value = tensors[name].detach().to(torch.float32).contiguous()
                hashed.update(f"{part}.{name} {tuple(value.shape)}\n".encode())
                hashed.update(value.numpy().data)
        return hashed.hexdigest()


def read_normalization(words: Any, mean: str, std: str, where: str = "") -> Normalization | None:
    """The mean and the deviation under two keys of a description, None where it does not have both.

    Args:
        where: what messages say before the key.

    Raises:
        UserError: for anything but two lists of as many finite numbers, with deviations above 0.
    """
    if not isinstance(words, Mapping) or any(words.get(key) in (None, [], ()) for key in (mean, std)):
        return None
    values = {key: _numbers(words[key], f"{where}{key}") for key in (mean, std)}
    if len(values[mean]) != len(values[std]):
        raise UserError(f"{where}{std}: got {len(values[std])} numbers, expected {len(values[mean])} as in {mean}")
    if min(values[std]) <= 0:
        raise UserError(f"{where}{std}: got {list(values[std])}, expected numbers above 0")
    return values[mean], values[std]


def _numbers(got: Any, key: str) -> tuple[float, ...]:
    fits = isinstance(got, list | tuple) and not any(isinstance(value, bool | str) for value in got)
    try:
        values = tuple(map(float, got)) if fits else ()
    except (TypeError, ValueError, OverflowError):
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise UserError(f"{key}: got {repr(got)[:60]}, expected a list of one number per channel")
    return values
