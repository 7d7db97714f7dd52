"""The layout of timm's VisionTransformer, both ways: DINOv2 with and without registers, DINO and plain ViTs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture

UNSUPPORTED = {
    r"dist_token": "a distillation token",
    r"norm_pre\..*": "a norm before the blocks",
    r"fc_norm\..*": "its final norm after pooling",
    r"attn_pool\..*": "attention pooling",
    r"blocks\.\d+\.attn\.[qk]_norm\..*": "norms of queries and keys",
    r"blocks\.\d+\.attn\.norm\..*": "a norm within attention",
    r"blocks\.\d+\.attn\.gate\..*": "gated attention",
    r"blocks\.\d+\.mlp\.norm\..*": "a norm within the feed-forward layers",
}
"""Names of tensors -> what they say the network has and `VisionTransformer` has not."""

REQUIRED = {
    "cls_token": "no CLS token",
    "pos_embed": "no table of absolute positions",
    "blocks.0.attn.qkv.bias": "attention without biases",
}
"""Names of tensors -> what their absence says."""

SWIGLU = {"fc1": "w12", "fc2": "w3"}
"""Names of theirs -> names of ours, of packed SwiGLU layers."""


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with names of ours; the classifier `head.*` is left out, names that are not known are passed on.

    Where positions are added to the patches only (all their models with registers), ours for CLS is zero. Where
    registers have positions, these are added to the registers. A gated MLP is taken for SwiGLU and any other for one
    with exact GELU, which is so in all weights of the family; tensors don't show the activation.

    Raises:
        UserError: for what `VisionTransformer` cannot express.
    """
    _refuse_unsupported(state)
    gated = is_gated(state)
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = _to_ours(name, gated)
        if ours in found:
            raise UserError(f"two tensors in the file stand for {ours}")
        if not re.fullmatch(r"head\.(weight|bias)", name):
            found[ours] = tensor
    return _with_positions(found)


def to_timm(backbone: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """What timm's model of this architecture loads strictly, made with `num_classes=0`.

    With registers it is one with `no_embed_class=True`, as all theirs are: the position of CLS is added to the CLS
    token, so that the way back gives other tensors with the same sum. timm has no mask token. Heads and the epsilon of
    norms (theirs is 1e-6) are not in the tensors, and they resize positions by size with antialias.
    """
    gated = architecture.ffn == "swiglu"
    state = {_to_theirs(name, gated): tensor for name, tensor in backbone.items() if name != "mask_token"}
    if not architecture.num_registers:
        return state
    positions = state["pos_embed"]
    return state | {
        "cls_token": state["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


def _refuse_unsupported(state: Mapping[str, Tensor]) -> None:
    for name in state:
        for pattern, what in UNSUPPORTED.items():
            if re.fullmatch(pattern, name):
                raise UserError(f"a timm model with {what} ({name}), which the networks here cannot express")
    for name, what in REQUIRED.items():
        if name not in state:
            raise UserError(f"a timm model with {what} (no {name}), which the networks here cannot express")


def is_gated(state: Mapping[str, Tensor]) -> bool:
    """Whether the first feed-forward layer gives twice what the second takes."""
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is None or second is None or not first.dim() or not second.dim():
        return False
    return first.shape[0] == 2 * second.shape[-1]


def _to_ours(name: str, gated: bool) -> str:
    if name == "reg_token":
        return "register_tokens"
    return _rename(name, SWIGLU) if gated else name


def _to_theirs(name: str, gated: bool) -> str:
    if name == "register_tokens":
        return "reg_token"
    return _rename(name, {ours: theirs for theirs, ours in SWIGLU.items()}) if gated else name


def _rename(name: str, names: Mapping[str, str]) -> str:
    return re.sub(r"(blocks\.\d+\.mlp\.)(\w+)(\.weight|\.bias)", lambda m: m[1] + names.get(m[2], m[2]) + m[3], name)


def _with_positions(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions for CLS and the patches, whatever theirs are for; a table that makes no square is left as it is."""
    table = found["pos_embed"]
    registers = found.get("register_tokens")
    if table.dim() != 3 or (registers is not None and registers.shape[::2] != table.shape[::2]):
        return found  # for the reader to refuse
    length = table.shape[1]
    count = 0 if registers is None else registers.shape[1]
    if _is_square(length):
        found["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    elif registers is not None and _is_square(length - 1 - count):
        found["register_tokens"] = registers + table[:, 1 : 1 + count]
        found["pos_embed"] = torch.cat([table[:, :1], table[:, 1 + count :]], dim=1)
    return found


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
