"""Parameters, plain or sharded, and the whole tensors they stand for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def write_whole(parameter: Tensor, whole: Tensor) -> None:
    """Fill a parameter in place; a shard takes its part. Processes do not talk to each other: each has the whole."""
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    part = whole.to(device=local.device, dtype=local.dtype)
    if isinstance(parameter, DTensor):
        part = distribute_tensor(part, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
    local.copy_(part)
