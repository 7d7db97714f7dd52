"""Which learning rate and weight decay each parameter gets: ordered tables, the first match wins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class ParameterRule(NamedTuple):
    """How one parameter is treated, relative to the schedules' values."""

    lr_multiplier: float
    weight_decay_multiplier: float
    last_layer: bool
    """Follows the learning rate of the last layer, which is 0 while that is frozen."""
    backbone: bool
    """Has the learning rate 0 while the backbone is frozen."""


WEIGHT_DECAY_RULES = (
    (r"\.bias$|norm|gamma", 0.0),
    (r"", 1.0),
)
"""Biases, norms and LayerScale are not decayed; all else is, tokens, positions and prototype gains included."""


def parameter_rule(name: str, *, depth: int, layerwise_decay: float, patch_embed_lr_multiplier: float) -> ParameterRule:
    """The rule for the parameter `name` ("backbone.blocks.3.norm1.weight"), with `depth` blocks in the backbone.

    Layer-wise decay (BEiT; DINOv2 code release): decay^(depth - i) for block i, decay^(depth + 1) for what comes before
    the first block, 1 for the final norm and the heads.
    """
    block = re.search(r"^backbone\.blocks\.(\d+)\.", name)
    lr_rules = (
        (r"^backbone\.patch_embed\.", layerwise_decay ** (depth + 1) * patch_embed_lr_multiplier),
        (r"^backbone\.(cls_token|pos_embed|mask_token|register_tokens)$", layerwise_decay ** (depth + 1)),
        (r"^backbone\.blocks\.", layerwise_decay ** (depth - int(block.group(1))) if block else 1.0),
        (r"", 1.0),
    )
    lr, weight_decay = _first(lr_rules, name), _first(WEIGHT_DECAY_RULES, name)
    return ParameterRule(lr, weight_decay, ".last_layer." in name, name.startswith("backbone."))


def _first(rules: Iterable[tuple[str, float]], name: str) -> float:
    return next(value for pattern, value in rules if re.search(pattern, name))


def parameter_groups(
    networks: nn.Module, *, depth: int, layerwise_decay: float, patch_embed_lr_multiplier: float
) -> list[dict]:
    """Optimizer groups: all trainable parameters with the same rule together, in the order of the first of each."""
    groups: dict[ParameterRule, dict] = {}
    for name, parameter in networks.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = parameter_rule(
            name,
            depth=depth,
            layerwise_decay=layerwise_decay,
            patch_embed_lr_multiplier=patch_embed_lr_multiplier,
        )
        groups.setdefault(rule, {"params": [], **rule._asdict()})["params"].append(parameter)
    return list(groups.values())


def create_states(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its AdamW state before the first step.

    Parameters that have not been stepped would be missing from a checkpoint, which then could not be loaded.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
