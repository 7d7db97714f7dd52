"""What the optimizer does to each parameter, as a text for the run folder."""

from __future__ import annotations

import warnings

import torch
from torch import nn


def parameter_table(networks: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Counts by module, then every parameter with its shape and its multipliers of learning rate and weight decay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fvcore uses torch.jit at import
        from fvcore.nn import parameter_count_table
    rules = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    lines = [f"{'parameter':<44}{'shape':<20}{'lr x':>10}{'weight decay x':>16}"]
    for name, parameter in networks.named_parameters():
        group = rules[parameter]
        shape = "x".join(map(str, parameter.shape))
        last = "  last layer" if group["last_layer"] else ""
        multipliers = f"{group['lr_multiplier']:>10.4g}{group['weight_decay_multiplier']:>16g}"
        lines.append(f"{name:<44}{shape:<20}{multipliers}{last}")
    return parameter_count_table(networks, max_depth=2) + "\n\n" + "\n".join(lines) + "\n"
