"""Collectives over all training processes; the identity where there is only one or none."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def _alone() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, in place."""
    if not _alone():
        dist.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, in place."""
    if not _alone():
        dist.all_reduce(x)
        x /= dist.get_world_size()
    return x


def max_over_processes(x: Tensor) -> Tensor:
    """The elementwise maximum of `x` over all processes, in place."""
    if not _alone():
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; the numbers of rows may differ.

    Shape [n, ...] on each process -> [sum of n, ...] on all.
    """
    if _alone():
        return x
    counts = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(x.shape[0], device=x.device))
    sizes = [int(count) for count in counts]
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: x.shape[0]] = x
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes)])
