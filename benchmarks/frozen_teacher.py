"""Memory that a frozen teacher costs; called by `benchmarks/step.py --teacher`."""

from __future__ import annotations

import argparse
import gc
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.distributed.world import join_world
from dinotrain.models.networks import BackboneNetworks
from dinotrain.models.vit import VisionTransformer


def frozen_teacher_memory(args: argparse.Namespace, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a teacher after it has looked at an image, in a process of its own on a CPU."""
    torch.set_num_threads(args.threads)
    with join_world(args.device, 5) as world, torch.no_grad():
        image = torch.randn(1, 3, 224, 224, device=world.device)
        before = _held(world.device)
        with torch.device("meta"):
            networks = BackboneNetworks(backbone=VisionTransformer(**arguments))
        networks.requires_grad_(False).eval()
        mesh = device_mesh(world.device.type, 1, None)
        parallelize(networks, mesh=mesh, precision=args.precision, reshard_after_forward=True, frozen=True)
        materialize(networks, world.device)
        networks.initialize(0)
        networks.backbone([image])
        gc.collect()
        count = sum(p.numel() for p in networks.parameters())
        shards = [p.to_local() if hasattr(p, "to_local") else p for p in networks.parameters()]  # pyright: ignore
        return {
            "parameters": count,
            "bytes_of_shards": sum(x.numel() * x.element_size() for x in shards),
            "bytes_grown": _held(world.device) - before,
            "gradients": sum(p.grad is not None or p.requires_grad for p in networks.parameters()),
        }


def _held(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def words(name: str, precision: str, found: Mapping[str, float]) -> str:
    """The numbers on one line."""
    count = found["parameters"]
    return (
        f"frozen teacher {name}, {precision}: {count / 1e6:,.1f} M parameters held in "
        f"{found['bytes_of_shards'] / count:.2f} bytes each; process grown by {found['bytes_grown'] / 2**20:,.0f} MB "
        f"({found['bytes_grown'] / count:.2f} bytes each) after a forward pass; parameters with gradients: "
        f"{found['gradients']}, optimizer state: none"
    )
