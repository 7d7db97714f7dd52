"""The optimisation recipe: AdamW and everything that moves with the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from dinotrain.optim.parameters import create_states, parameter_groups
from dinotrain.optim.schedules import Cosine, Delayed, Warmup


class StepValues(NamedTuple):
    """What the schedules say for one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    last_layer_lr: float
    frozen_backbone: bool = False
    """Whether the backbone has learning rate 0, while new heads get used to it."""


@dataclass(frozen=True, kw_only=True)
class OptimizationRecipe:
    """AdamW with cosine schedules (DINOv2 paper, appendix B; numbers per model in the experiments).

    Lengths (`warmup`, `freeze_last_layer`, `teacher_temperature_warmup`) below 1 are shares of `steps`, so that a
    shorter run is the same recipe compressed; from 1 on they are numbers of steps.

    Args:
        steps: optimizer updates in the whole run.
        global_batch: images per update, over all processes and accumulated micro-batches.
        micro_batch: images per process and forward pass; None for the largest equal share of a process's images
            that is not above `micro_batch_limit`.
        micro_batch_limit: what fits on the device that the recipe was made for; None for no limit.
        base_lr: learning rate at `lr_reference_batch`.
        lr_rule: effective lr = base_lr * sqrt(global_batch / reference), or linear in it, or base_lr itself.
        lr_reference_batch: see `lr_rule`.
        min_lr: learning rate at the end.
        warmup: length of the linear warm-up from 0.
        weight_decay: at the start; cosine to `weight_decay_end`.
        betas: AdamW's.
        clip_grad: largest gradient norm, separately for backbone and heads; None for no clipping.
        layerwise_decay: factor on the learning rate per block, from the last to the first.
        patch_embed_lr_multiplier: further factor for the patch embedding.
        freeze_last_layer: how long the prototypes have learning rate 0.
        momentum: of the teacher's moving average at the start; cosine to `momentum_end`.
        teacher_temperature_start: linear to `teacher_temperature` over `teacher_temperature_warmup`.

    Raises:
        ValueError: for a value that makes no sense, with its key.
    """

    steps: int
    global_batch: int
    micro_batch: int | None = None
    micro_batch_limit: int | None = None
    base_lr: float = 2e-4
    lr_rule: Literal["sqrt", "linear", "none"] = "sqrt"
    lr_reference_batch: int = 1024
    min_lr: float = 1e-6
    warmup: float = 0.16
    weight_decay: float = 0.04
    weight_decay_end: float = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float | None = 3.0
    layerwise_decay: float = 1.0
    patch_embed_lr_multiplier: float = 0.2
    freeze_last_layer: float = 0.002
    momentum: float = 0.994
    momentum_end: float = 1.0
    teacher_temperature_start: float = 0.04
    teacher_temperature: float = 0.07
    teacher_temperature_warmup: float = 0.06

    def __post_init__(self) -> None:
        _check(self.steps >= 1, "steps", self.steps, "at least 1")
        _check(self.global_batch >= 1, "global_batch", self.global_batch, "at least 1")
        for name in ("micro_batch", "micro_batch_limit"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, value, "at least 1, or null")
        _check(self.base_lr > 0, "base_lr", self.base_lr, "a number above 0")
        _check(self.lr_rule in ("sqrt", "linear", "none"), "lr_rule", self.lr_rule, "sqrt, linear or none")
        _check(self.lr_reference_batch >= 1, "lr_reference_batch", self.lr_reference_batch, "at least 1")
        for name in ("min_lr", "weight_decay", "weight_decay_end", "patch_embed_lr_multiplier"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        right = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _check(right, "betas", self.betas, "two numbers in [0, 1)")
        _check(self.eps > 0, "eps", self.eps, "a number above 0")
        _check(0 < self.layerwise_decay <= 1, "layerwise_decay", self.layerwise_decay, "in (0, 1]")
        _check(self.clip_grad is None or self.clip_grad > 0, "clip_grad", self.clip_grad, "a number above 0, or null")
        for name in ("momentum", "momentum_end"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        for name in ("teacher_temperature", "teacher_temperature_start"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "a number above 0")
        for name in ("warmup", "freeze_last_layer", "teacher_temperature_warmup"):
            value = getattr(self, name)
            right = f"a share of the run below 1, or less than optim.steps = {self.steps}"
            _check(value >= 0 and self.in_steps(value) < max(self.steps, 2), name, value, right)

    @property
    def lr(self) -> float:
        """The effective peak learning rate."""
        ratio = self.global_batch / self.lr_reference_batch
        return self.base_lr * {"sqrt": math.sqrt(ratio), "linear": ratio, "none": 1.0}[self.lr_rule]

    def in_steps(self, value: float) -> int:
        """A length in steps, given as a share of the run (below 1) or as a number of steps."""
        return round(value * self.steps) if value < 1 else round(value)

    def schedules(self, *, frozen_steps: int = 0) -> Callable[[int], StepValues]:
        """The values for a step, counted from 0; in the first `frozen_steps` the backbone does not learn."""
        lr = Cosine(self.lr, self.min_lr, self.steps, warmup=self.in_steps(self.warmup))
        weight_decay = Cosine(self.weight_decay, self.weight_decay_end, self.steps)
        momentum = Cosine(self.momentum, self.momentum_end, self.steps)
        temperature = Warmup(
            self.teacher_temperature_start, self.teacher_temperature, self.in_steps(self.teacher_temperature_warmup)
        )
        last_layer_lr = Delayed(lr, until=self.in_steps(self.freeze_last_layer))
        return lambda step: StepValues(
            lr(step),
            weight_decay(step),
            momentum(step),
            temperature(step),
            last_layer_lr(step),
            step < frozen_steps,
        )

    def optimizer(self, networks: nn.Module, depth: int) -> torch.optim.AdamW:
        """AdamW over all trainable parameters of `networks`, with its state in place."""
        groups = parameter_groups(
            networks,
            depth=depth,
            layerwise_decay=self.layerwise_decay,
            patch_embed_lr_multiplier=self.patch_embed_lr_multiplier,
        )
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.betas, eps=self.eps, fused=True)
        create_states(optimizer)
        return optimizer


def set_step(optimizer: torch.optim.Optimizer, values: StepValues) -> None:
    """Put a step's learning rate and weight decay into every group."""
    for group in optimizer.param_groups:
        lr = values.last_layer_lr if group["last_layer"] else values.lr
        if group["backbone"] and values.frozen_backbone:
            lr = 0.0
        group["lr"] = lr * group["lr_multiplier"]
        group["weight_decay"] = values.weight_decay * group["weight_decay_multiplier"]


def _check(right: bool, name: str, got: object, expected: str) -> None:
    if not right:
        raise ValueError(f"optim.{name}: got {got}, expected {expected}")
