"""Initial values of every parameter, as one table; the same for every number of processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from dinotrain.models.shards import write_whole

Fill = Callable[[Tensor, Generator], Tensor]


def _constant(value: float) -> Fill:
    return lambda x, _: x.fill_(value)


def _normal(std: float) -> Fill:
    return lambda x, generator: x.normal_(0.0, std, generator=generator)


def _truncated(std: float) -> Fill:
    return lambda x, generator: nn.init.trunc_normal_(x, std=std, generator=generator)


def _uniform(fan_in: int) -> Fill:
    """The framework's default for convolutions and linear layers."""
    bound = 1 / math.sqrt(fan_in)
    return lambda x, generator: x.uniform_(-bound, bound, generator=generator)


@dataclass(frozen=True)
class InitialValues:
    """The numbers of the table that a model may choose.

    Args:
        weight_std: of linear weights; None for Xavier's sqrt(2 / (inputs + outputs)), which suits narrow networks: 0.02
            is about right for 768 channels and starves 128.
        position_std: of position embeddings.
        layer_scale: of LayerScale's gain.
    """

    weight_std: float | None = 0.02
    position_std: float = 0.02
    layer_scale: float = 1.0


def _rule(module: nn.Module, name: str, values: InitialValues) -> Fill:
    """How the parameter `name` (last part) of `module` starts (defaults: DINOv2 code release)."""
    if name == "mask_token":
        return _constant(0.0)
    if name in ("cls_token", "register_tokens"):
        return _normal(1e-6)
    if name == "pos_embed":
        return _truncated(values.position_std)
    if name == "gamma":
        return _constant(values.layer_scale)
    if name == "weight_g":
        return _constant(1.0)
    if name == "weight_v":
        return _uniform(module.get_parameter(name).shape[1])
    if isinstance(module, nn.Conv2d):
        return _uniform(module.in_channels * module.kernel_size[0] * module.kernel_size[1])
    if isinstance(module, nn.LayerNorm):
        return _constant(1.0 if name == "weight" else 0.0)
    if isinstance(module, nn.Linear):
        std = values.weight_std or math.sqrt(2 / (module.in_features + module.out_features))
        return _truncated(std) if name == "weight" else _constant(0.0)
    raise TypeError(f"no initial value is defined for parameter {name} of {type(module).__name__}")


@torch.no_grad()
def initialize(model: nn.Module, seed: int, values: InitialValues, *, name: str = "") -> None:
    """Fill all parameters of `model`, plain or sharded, in place.

    Every parameter draws from its own generator, keyed by the seed and its name (with that of the model before it), and
    a shard takes its part of the full draw: so a model starts the same on one process and on a thousand. One parameter
    at a time is whole in memory.
    """
    for path, module in model.named_modules(prefix=name):
        for last, parameter in module.named_parameters(recurse=False):
            key = f"{seed}/{path}.{last}".encode()
            number = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
            _fill(parameter, _rule(module, last, values), number)


def _fill(parameter: Tensor, fill: Fill, seed: int) -> None:
    full = torch.empty(parameter.shape, device=parameter.device)
    fill(full, torch.Generator(device=parameter.device).manual_seed(seed))
    write_whole(parameter, full)
