"""What an extraction of features is to do, from a checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.embedding_options import EmbeddingRequest
from dinotrain.commands.evaluation import identity_of
from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.evaluation_place import data_name
from dinotrain.commands.frozen import frozen_backbone
from dinotrain.commands.pretrain import choose_device
from dinotrain.commands.sources import build_source
from dinotrain.data.source import Source
from dinotrain.distributed.place import Place
from dinotrain.embedding.content import columns_of
from dinotrain.embedding.output import Output
from dinotrain.embedding.plan import Plan
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.splits import whole
from dinotrain.weights.weights import Weights

GROUPS = ("data", "storage")


class Job(NamedTuple):
    """What is to be done, the same on all processes."""

    request: EmbeddingRequest
    weights: Weights
    source: Source
    images: str
    """A name for them."""
    backbone: Backbone
    output: Output
    about: Mapping[str, Any]
    """All that decides on the features."""

    @property
    def row_bytes(self) -> int:
        """Of the features of an image."""
        return sum(column.numbers for column in self.output.columns) * np.dtype(self.request.dtype).itemsize

    @property
    def plan(self) -> Plan:
        """Which images are computed and stored together."""
        return Plan.of(len(self.source), self.request.batch, self.row_bytes)


def request_of(config: DictConfig) -> EmbeddingRequest:
    """The keys that are not of a group.

    Raises:
        UserError: for a value that is refused.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}: got {config[group]!r}, expected the keys of that group")
    return EmbeddingRequest(**{str(key): value for key, value in plain.items() if key not in GROUPS})


def job_of(config: DictConfig, request: EmbeddingRequest, place: Place) -> Job:
    """Read the weights, find the images.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    source = build_source(config)
    if not len(source):
        raise UserError("images: there are none; expected at least one")
    weights = request.read_weights()
    architecture = weights.architecture
    size, crop_fraction = input_of(request, weights)
    deepest = max(request.layers)
    if deepest > architecture.depth:
        raise UserError(f"layers: got {deepest}, expected at most {architecture.depth}, as many as there are blocks")
    patches = (size // architecture.patch_size) ** 2
    columns = columns_of(request.tokens, request.layers, dim=architecture.embed_dim, patches=patches)
    output = Output(request.path, columns)
    device = choose_device(request.device, key="device")
    identity = identity_of(weights)
    backbone = frozen_backbone(
        weights,
        # Of several processes of a machine, each has its own GPU.
        device=torch.device(device, place.local_rank % torch.cuda.device_count() if device == "cuda" else 0),
        size=size,
        crop_fraction=crop_fraction,
        mean=None if request.mean is None else tuple(request.mean),
        std=None if request.std is None else tuple(request.std),
        precision=request.precision,
    )
    about = {
        "weights": identity,
        "images": whole(source, "images").identity,
        "tokens": list(request.tokens),
        "layers": list(request.layers),
        "size": size,
        "crop_fraction": crop_fraction,
        "mean": list(backbone.preparation.mean),
        "std": list(backbone.preparation.std),
        "precision": str(backbone.dtype).removeprefix("torch."),
        "dtype": request.dtype,
        "batch": request.batch,
        "device": device,
        "version": 1,
    }
    return Job(request, weights, source, data_name(config), backbone, output, about)
