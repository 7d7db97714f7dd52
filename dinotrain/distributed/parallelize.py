"""The parallel plan: the only file that knows FSDP."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

Precision = Literal["fp16", "bf16", "fp32"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

SMALL_BACKBONE = 30_000_000
"""Up to this many parameters a backbone is gathered as one unit: each unit costs about a millisecond on the host."""


def device_mesh(device_type: str, world_size: int, shard_size: int | None) -> DeviceMesh:
    """The mesh of all processes: sharded over all (FSDP), or over `shard_size` and replicated beyond that (HSDP).

    Raises:
        ValueError: if `shard_size` does not divide the number of processes.
    """
    if shard_size is None or shard_size == world_size:
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    if shard_size < 1 or world_size % shard_size:
        raise ValueError(f"parallel.shard_size: got {shard_size}, expected a divisor of the {world_size} processes")
    shape = (world_size // shard_size, shard_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def parallelize(
    networks: nn.Module,
    *,
    mesh: DeviceMesh,
    precision: Precision,
    reshard_after_forward: bool,
    activation_checkpointing: bool = False,
    compile_blocks: bool = False,
    frozen: bool = False,
    exact: Sequence[str] = (),
) -> None:
    """Shard a set of networks (backbone and heads, built on the meta device) in place.

    Nobody may write in place to what the networks return: FSDP hangs its hooks on it.

    Each child is a unit of its own that can be called alone; the blocks of a large backbone are units within it.
    Gradients are reduced in fp16 for an fp16 backbone and in fp32 for all else. Networks whose shards are written to
    between two forward passes without a backward pass (a teacher) need `reshard_after_forward`: what stays gathered
    would not see the change. Networks that are never trained are `frozen`: their shards are kept in the precision they
    are computed in, without fp32 master weights. Children named in `exact` are computed in fp32.
    """
    # Tokens are views of one packed tensor; that is safe as long as nobody writes to them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    if frozen:
        networks.to(DTYPES[precision])
    for name, child in networks.named_children():
        dtype = torch.float32 if name in exact else DTYPES[precision]
        reduce = torch.float16 if precision == "fp16" and name == "backbone" else torch.float32
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce)
        wrap = functools.partial(fully_shard, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
        blocks = list(getattr(child, "blocks", ()))
        for block in blocks:
            # Compiled within the checkpoint: the other way round nothing is compiled, and nobody says so.
            if compile_blocks:
                block.forward = torch.compile(block.forward)
            if activation_checkpointing:
                block.forward = functools.partial(
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
        if sum(p.numel() for p in child.parameters()) > SMALL_BACKBONE:
            for block in blocks:
                wrap(block)
        wrap(child)
        if hasattr(child, "intermediate"):
            register_fsdp_forward_method(child, "intermediate")


def materialize(networks: nn.Module, device: torch.device) -> None:
    """Give networks built on the meta device their memory; its content is undefined until it is filled."""
    networks.to_empty(device=device)


@contextlib.contextmanager
def gradient_sync(networks: nn.Module, enabled: bool) -> Iterator[None]:
    """Whether backward passes within reduce gradients over processes: only the last micro-batch of a step needs to."""
    units = [child for child in networks.children() if isinstance(child, FSDPModule)]
    for unit in units:
        unit.set_requires_gradient_sync(enabled)
    yield
    for unit in units:
        unit.set_requires_gradient_sync(True)
