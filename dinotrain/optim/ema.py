"""The teacher as the moving average of the student, on local shards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class MovingAverage:
    """teacher = momentum * teacher + (1 - momentum) * student, over all parameters.

    Takes the parameters once, when the networks are sharded and before their first forward: what a module lists while
    its parameters are gathered are other tensors, and writing to those is lost.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self._teacher, self._student = _shards(teacher), _shards(student)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        torch._foreach_lerp_(self._teacher, self._student, 1.0 - momentum)

    @torch.no_grad()
    def copy(self) -> None:
        """Make the teacher equal to the student."""
        torch._foreach_copy_(self._teacher, self._student)


def _shards(module: nn.Module) -> list[Tensor]:
    return [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
