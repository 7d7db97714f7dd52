"""The layout of Hugging Face transformers, both ways: Dinov2Model, Dinov2WithRegistersModel and ViTModel.

Names of theirs are read as the files of the hub have them (`encoder.layer.0.attention.attention.query.weight`), which
is also what `save_pretrained` writes, and as the modules of transformers 5 have them (`attention.q_proj.weight`), which
is what `torch.save(model.state_dict())` writes. Files are written as those of the hub are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.hugging_face_config import architecture_of, config_of, preprocessor_of
from dinotrain.weights.safetensors_file import write_safetensors
from dinotrain.weights.weights import Normalization

OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
"""Names of ours -> names of theirs, without the last .weight or .bias; so too in the following tables."""

IN_DINOV2_BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls2.gamma": "layer_scale2.lambda1",
}
IN_VIT_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
FUSED = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
}
"""Our tensor -> theirs that are its rows, in order."""

MODULES_FUSED = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
}
MODULES_IN_BLOCK = {"attn.proj": "attention.o_proj", "mlp.w3": "mlp.down_proj"}
"""Where the modules of transformers 5 are named otherwise than the files of the hub."""

LEFT_OUT = re.compile(r"(classifier|pooler\.dense)\.(weight|bias)")
"""What stands behind the backbone."""

ANCHOR = "embeddings.patch_embeddings.projection.weight"
"""Is in every file; what stands before it there is the prefix of all names of the backbone."""

_READ_OUTSIDE = {theirs: ours for ours, theirs in OUTSIDE.items()}
_READ_IN_BLOCK = {
    theirs: (ours, 0, 1)
    for table in (IN_DINOV2_BLOCK, IN_VIT_BLOCK, MODULES_IN_BLOCK)
    for ours, theirs in table.items()
} | {
    theirs: (ours, part, len(parts))
    for table in (FUSED, MODULES_FUSED)
    for ours, parts in table.items()
    for part, theirs in enumerate(parts)
}


def from_hugging_face(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Tensor], Architecture]:
    """Tensors with names of ours and the architecture that `config` (config.json) states.

    Names may have the prefix of a model around the backbone (`dinov2.` of Dinov2ForImageClassification); classifiers
    and poolers are left out. Names that are not known are passed on as they are, for the reader to refuse. Values are
    those of `state`, query, key and value as the rows of one tensor.

    Raises:
        UserError: for a `config` that these networks cannot be built by, or two tensors of one meaning.
    """
    architecture = architecture_of(config)
    prefix = _prefix(state)
    found: dict[str, Tensor] = {}
    parts: dict[tuple[str, int], dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in state.items():
        short = name.removeprefix(prefix)
        if LEFT_OUT.fullmatch(short):
            continue
        ours, part, count = _to_ours(short) or (name, 0, 1)
        if count > 1:
            parts.setdefault((ours, count), {})[part] = (name, tensor)
        else:
            _put(found, ours, tensor)
    for (ours, count), pieces in parts.items():
        for name, tensor in _joined(ours, count, pieces).items():
            _put(found, name, tensor)
    return _in_our_shapes(found), architecture


def to_hugging_face(
    backbone: Mapping[str, Tensor], architecture: Architecture
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors with names of theirs, and the contents of config.json.

    With registers it is a Dinov2WithRegistersModel; else with LayerScale or SwiGLU a Dinov2Model; else a ViTModel. The
    two of DINOv2 always have LayerScale, so a network without gets gains of 1, which change nothing. ViTModel takes no
    mask token unless asked to, so a network that never learned one (zeros) is written without it.

    Raises:
        UserError: for a network that none of their classes describes.
    """
    config = config_of(architecture, backbone["patch_embed.proj.weight"].dtype)
    vit = config["model_type"] == "vit"
    state: dict[str, Tensor] = {}
    for name, tensor in backbone.items():
        theirs = _to_theirs(name, IN_VIT_BLOCK if vit else IN_DINOV2_BLOCK)
        state.update(zip(theirs, tensor.chunk(len(theirs)), strict=True))
    _fit_their_class(state, architecture, vit)
    return state, config


def write_hugging_face(
    folder: str | Path,
    backbone: Mapping[str, Tensor],
    architecture: Architecture,
    normalization: Normalization | None = None,
) -> None:
    """Write a folder that AutoModel and AutoImageProcessor load: weights, config.json and preprocessor_config.json.

    Images are prepared as the evaluation does (bicubic, short side to size / 0.875, centre crop) at the size of the
    position table. `normalization` None is that of ImageNet. Networks of other than 3 channels get no
    preprocessor_config.json, because theirs make RGB of everything.

    Raises:
        UserError: for a network that none of their classes describes.
    """
    state, config = to_hugging_face(backbone, architecture)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(target / "model.safetensors", state, {"format": "pt"})
    files = {"config.json": config}
    if architecture.channels == 3:
        files["preprocessor_config.json"] = preprocessor_of(architecture, normalization)
    for name, content in files.items():
        (target / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _prefix(state: Mapping[str, Tensor]) -> str:
    found = [name.removesuffix(ANCHOR) for name in state if name == ANCHOR or name.endswith("." + ANCHOR)]
    return found[0] if len(found) == 1 else ""


def _to_ours(name: str) -> tuple[str, int, int] | None:
    """Name of ours, which part of that tensor it is, and of how many; None for a name that is not known."""
    stem, leaf = _split(name)
    if stem in _READ_OUTSIDE:
        return _READ_OUTSIDE[stem] + leaf, 0, 1
    block = re.fullmatch(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)", stem)
    if not block or block[2] not in _READ_IN_BLOCK:
        return None
    ours, part, count = _READ_IN_BLOCK[block[2]]
    return f"blocks.{block[1]}.{ours}{leaf}", part, count


def _to_theirs(name: str, in_block: Mapping[str, str]) -> tuple[str, ...]:
    stem, leaf = _split(name)
    if stem in OUTSIDE:
        return (OUTSIDE[stem] + leaf,)
    _, block, part = stem.split(".", 2)
    theirs = FUSED[part] if part in FUSED else (in_block[part],)
    return tuple(f"encoder.layer.{block}.{one}{leaf}" for one in theirs)


def _split(name: str) -> tuple[str, str]:
    stem, _, leaf = name.rpartition(".")
    return (stem, f".{leaf}") if leaf in ("weight", "bias") else (name, "")


def _fit_their_class(state: dict[str, Tensor], architecture: Architecture, vit: bool) -> None:
    """Add what their class always has, take away what it has not."""
    gains = torch.ones_like(state["layernorm.weight"])
    mask = state.setdefault("embeddings.mask_token", torch.zeros_like(gains).unsqueeze(0))
    if vit:
        del state["embeddings.mask_token"]
        state |= {"embeddings.mask_token": mask.unsqueeze(0)} if mask.any() else {}
    elif not architecture.layer_scale:
        for block in range(architecture.depth):
            for scale in ("layer_scale1", "layer_scale2"):
                state[f"encoder.layer.{block}.{scale}.lambda1"] = gains.clone()


def _put(found: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in found:
        raise UserError(f"two tensors in the file stand for {name}")
    found[name] = tensor


def _joined(ours: str, count: int, pieces: Mapping[int, tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The tensor of ours; or the pieces by their own names, where some are missing or do not fit each other."""
    tensors = [tensor for _, (_, tensor) in sorted(pieces.items())]
    if len(tensors) == count and len({tensor.shape for tensor in tensors}) == 1 and tensors[0].dim():
        return {ours: torch.cat(tensors)}
    return dict(pieces.values())


def _in_our_shapes(found: dict[str, Tensor]) -> dict[str, Tensor]:
    mask = found.get("mask_token")
    if mask is not None and mask.dim() == 3 and mask.shape[0] == 1:  # of ViTModel
        found["mask_token"] = mask.squeeze(0)
    if "register_tokens" in found and not found["register_tokens"].numel():
        del found["register_tokens"]
    return found
