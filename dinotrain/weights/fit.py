"""Filling a network with tensors: all of it, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.position import positions_for
from dinotrain.models.shards import write_whole
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import Architecture, HeadArchitecture, guessed_heads
from dinotrain.weights.mismatch import Mismatch
from dinotrain.weights.shapes import Shapes, shapes_of

POSITIONS = "pos_embed"
NAMES = {(12, 384): "vits", (12, 768): "vitb", (24, 1024): "vitl", (40, 1536): "vitg"}
"""Blocks and channels of the family."""


@torch.no_grad()
def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, path: str, what: str) -> tuple[str, ...]:
    """Fill every parameter of a backbone or a head, plain or sharded, in place.

    Position embeddings of another grid are resized, by the rule of the network; nothing else is changed but the type
    of the numbers. One tensor at a time is whole in memory. Processes do not talk to each other: each reads all.

    Args:
        module: with memory of its own (not on the meta device).
        tensors: by the names of its parameters.
        path: where they come from, for messages.
        what: which network this is, in words; the last is "backbone", "dino_head" or "ibot_head".

    Returns:
        What was done to them, in words.

    Raises:
        UserError: if they do not fit, with what would be right; the network is then as it was.
    """
    parameters = dict(module.named_parameters())
    wanted, found = {name: tuple(p.shape) for name, p in parameters.items()}, shapes_of(tensors)
    grids = _grids(module, wanted, found)
    if grids:
        found = found | {POSITIONS: wanted[POSITIONS]}
    mismatch = Mismatch.between(wanted, found)
    if mismatch:
        causes = "; ".join(_causes(module, wanted, shapes_of(tensors), what))
        words = f"{causes} ({mismatch.words()})" if causes else mismatch.words()
        raise UserError(f"{path}: {what} does not fit the network: {words}")
    _check_values(parameters, tensors, f"{path}: {what}")
    for name, parameter in parameters.items():
        value = tensors[name]
        if grids and name == POSITIONS and isinstance(module, VisionTransformer):
            value = positions_for(value.float(), grids[1], grids[1], module.position_resize)
        write_whole(parameter, value)
    return (f"position embeddings resized from {grids[0]}x{grids[0]} to {grids[1]}x{grids[1]}",) if grids else ()


def _grids(module: nn.Module, wanted: Shapes, found: Shapes) -> tuple[int, int] | None:
    """Sides of the grids of positions, there and here, if these are all that differs in the table."""
    there, here = found.get(POSITIONS), wanted.get(POSITIONS)
    if not isinstance(module, VisionTransformer) or there is None or here is None or there == here:
        return None
    if len(there) != 3 or there[0] != 1 or there[2] != here[2] or there[1] < 2:
        return None
    side = math.isqrt(there[1] - 1)
    return (side, math.isqrt(here[1] - 1)) if side * side == there[1] - 1 else None


def _check_values(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
    for name, parameter in parameters.items():
        value = tensors[name]
        if not value.is_floating_point():
            raise UserError(f"{what}: {name} holds {value.dtype} numbers, expected floating-point ones")
        if not torch.isfinite(value).all():
            raise UserError(
                f"{what}: {name} holds numbers that are not finite: the file is damaged, or its run diverged"
            )
        if not torch.isfinite(value.to(parameter.dtype)).all():
            raise UserError(f"{what}: {name} holds numbers too large for {parameter.dtype}; use bf16 or fp32")


def _causes(module: nn.Module, wanted: Shapes, found: Shapes, what: str) -> list[str]:
    """What makes the difference, and the key that would put it right."""
    try:
        if isinstance(module, VisionTransformer):
            here, there = (Architecture.of_shapes(shapes, num_heads=1) for shapes in (wanted, found))
            return _backbone_causes(here, there)
        if isinstance(module, Head):
            here, there = (HeadArchitecture.of_shapes(shapes) for shapes in (wanted, found))
            return _head_causes(here, there, what.split()[-1])
    except UserError:  # no network that is known here
        pass
    return []


def _backbone_causes(here: Architecture, there: Architecture) -> list[str]:
    causes = []
    if (here.depth, here.embed_dim) != (there.depth, there.embed_dim):
        name = NAMES.get((there.depth, there.embed_dim))
        known = f" ({name}{there.patch_size})" if name else ""
        heads = guessed_heads(there.embed_dim)
        more = f" model.num_heads={heads}" if heads else ""
        causes.append(
            f"these are weights of {there.depth} blocks x {there.embed_dim} channels{known}, the network has "
            f"{here.depth} x {here.embed_dim}; set model.depth={there.depth} model.embed_dim={there.embed_dim}{more}"
        )
    if here.num_registers != there.num_registers:
        many = f"with {there.num_registers} registers" if there.num_registers else "without registers"
        causes.append(f"these are weights {many}; set model.num_registers={there.num_registers}")
    if here.layer_scale != there.layer_scale:
        verb, value = ("have", "1.0e-5") if there.layer_scale else ("have no", "null")
        causes.append(f"these weights {verb} LayerScale; set model.layer_scale={value}")
    for field, name in (("patch_size", "patch size"), ("channels", "image channels"), ("ffn", "feed-forward kind")):
        if getattr(here, field) != getattr(there, field):
            value = getattr(there, field)
            causes.append(f"the {name} of these weights is {value}; set model.{field}={value}")
    if here.ffn == there.ffn and here.ffn_ratio != there.ffn_ratio:
        causes.append(
            f"the feed-forward ratio of these weights is {there.ffn_ratio}; set model.ffn_ratio={there.ffn_ratio}"
        )
    return causes


def _head_causes(here: HeadArchitecture, there: HeadArchitecture, group: str) -> list[str]:
    causes = []
    if here.in_dim != there.in_dim:
        causes.append(f"this is a head for {there.in_dim} channels, the backbone has {here.in_dim} (model.embed_dim)")
    names = {"num_prototypes": "prototypes", "bottleneck_dim": "channels in its bottleneck"}
    names |= {"hidden_dim": "channels in its hidden layers", "num_layers": "layers"}
    for field, name in names.items():
        theirs = getattr(there, field)
        if getattr(here, field) != theirs:
            causes.append(f"this head has {theirs} {name}; set method.{group}.{field}={theirs}")
    return causes
