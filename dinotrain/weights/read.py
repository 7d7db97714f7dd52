"""The one door for weights: whatever a path leads to is recognised by its content."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture, HeadArchitecture
from dinotrain.weights.classifier_file import CLASSIFIER, classifier_of, is_classifier
from dinotrain.weights.files import Stored, read_file, read_folder
from dinotrain.weights.mismatch import Mismatch
from dinotrain.weights.official import from_official
from dinotrain.weights.runs import EXPORT, find_checkpoint, is_export, read_checkpoint, read_export
from dinotrain.weights.shapes import shapes_of
from dinotrain.weights.timm_layout import from_timm, is_gated
from dinotrain.weights.weights import MASK_TOKEN, Weights, read_normalization

HUGGING_FACE = "embeddings.patch_embeddings.projection.weight"
"""How the names of the patch embedding end in all their vision transformers."""

TIMM_ONLY = re.compile(r"reg_token|dist_token|(fc_norm|norm_pre|attn_pool)\..*|blocks\.\d+\.attn\.([qk]_)?norm\..*")
CONFIG = "config.json"
KNOWN_FOLDERS = "one run with a complete checkpoint, a checkpoint, or a Hugging Face folder (config.json and weights)"


def read_weights(path: str, *, part: str | None = None, num_heads: int | None = None) -> Weights:
    """Read a backbone, and its heads where there are any, from any layout that is known here.

    These are runs, checkpoints, exports and classifiers of this trainer; backbones and training checkpoints of DINO
    and DINOv2; Hugging Face folders; state dicts of timm. Every tensor is accounted for, or nothing is read.

    Args:
        path: of a file or a folder.
        part: "teacher", "student" or "ema" of a checkpoint that has several; None for the best of them.
        num_heads: of the attention, where the source does not say and it is not one per 64 channels.

    Raises:
        UserError: one line that begins with the path.
    """
    if not path.strip():
        raise UserError("nothing given; expected a path")
    try:
        weights = _read(_expanded(path), part, num_heads)
        own = weights.architecture.num_heads
        if num_heads is not None and num_heads != own:
            raise UserError(f"num_heads: got {num_heads}, but these weights say of themselves that they have {own}")
        _check(weights)
        return replace(weights, path=path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError("no such user") from error


def _read(path: Path, part: str | None, num_heads: int | None) -> Weights:
    if path.is_dir():
        return _read_folder(path, part, num_heads)
    if not path.exists():
        raise UserError("no such file or folder")
    stored = read_file(path)
    if is_export(stored):
        _refuse(part)
        return read_export(path, stored)
    if is_classifier(stored):
        _refuse(part)
        return classifier_of(path, stored).backbone
    if isinstance(stored.tree, Mapping) and any(str(name).endswith(HUGGING_FACE) for name in stored.tree):
        _refuse(part)
        if not (path.parent / CONFIG).exists():
            raise UserError(f"a Hugging Face model without its {CONFIG}: give the folder that holds both")
        return _read_hugging_face(path.parent, dict(stored.tree), _config(path.parent))
    return _read_state(path, stored, part, num_heads)


def _read_folder(folder: Path, part: str | None, num_heads: int | None) -> Weights:
    if (folder / CLASSIFIER).exists():
        return _read(folder / CLASSIFIER, part, num_heads)
    checkpoint = find_checkpoint(folder)
    if checkpoint is not None:
        return read_checkpoint(checkpoint, part)
    if (folder / EXPORT).exists():
        return _read(folder / EXPORT, part, num_heads)
    if not (folder / CONFIG).exists():
        runs = sorted(inner.name for inner in folder.iterdir() if inner.is_dir() and find_checkpoint(inner))
        found = f"this folder holds several runs ({', '.join(runs)})" if runs else "nothing that is known here"
        raise UserError(f"{found}; expected {KNOWN_FOLDERS}")
    config = _config(folder)
    if "model_type" in config:
        _refuse(part)
        return _read_hugging_face(folder, read_folder(folder), config)
    weights = _read_state(folder, Stored(read_folder(folder)), part, num_heads)
    words = config.get("pretrained_cfg")
    return replace(weights, normalization=read_normalization(words, "mean", "std", f"{CONFIG}: pretrained_cfg."))


def _read_hugging_face(folder: Path, state: Mapping[str, Tensor], config: dict[str, Any]) -> Weights:
    from dinotrain.weights.hugging_face import from_hugging_face

    backbone, architecture = from_hugging_face(state, config)
    preprocessor = folder / "preprocessor_config.json"
    words = _json(preprocessor) if preprocessor.exists() else None
    names = config.get("architectures") or [config["model_type"]]
    if not isinstance(names, list) or not isinstance(names[0], str):
        raise UserError(f"{CONFIG}: architectures: got {names!r}, expected a list of names")
    weights = Weights(
        path=str(folder),
        layout=f"Hugging Face {names[0]}",
        architecture=architecture,
        backbone=backbone,
        normalization=read_normalization(words, "image_mean", "image_std", f"{preprocessor.name}: "),
    )
    return _with_mask_token(weights)


def _read_state(path: Path, stored: Stored, part: str | None, num_heads: int | None) -> Weights:
    """Tensors by name, alone or in the checkpoint of a training, of which nothing else is known."""
    found = from_official(stored.tree, part)
    backbone, layout = found.backbone, found.layout
    if _is_timm(backbone):
        backbone, layout = from_timm(backbone), "timm state dict"
    weights = Weights(
        path=str(path),
        layout=layout,
        architecture=Architecture.of_tensors(backbone, num_heads=num_heads),
        backbone=backbone,
        heads=found.heads,
        notes=found.notes,
    )
    return _with_mask_token(weights)


def _is_timm(backbone: Mapping[str, Tensor]) -> bool:
    """Whether names or shapes are those of timm where it differs from DINO."""
    table = backbone.get("pos_embed")
    positions = table.shape[1] if table is not None and table.dim() == 3 else 0
    without_cls = positions > 1 and math.isqrt(positions) ** 2 == positions
    return is_gated(backbone) or without_cls or any(TIMM_ONLY.fullmatch(name) for name in backbone)


def _with_mask_token(weights: Weights) -> Weights:
    """Networks that were not trained by masking have none; it plays no part in what they make of whole images."""
    if MASK_TOKEN in weights.backbone or "cls_token" not in weights.backbone:
        return weights
    token = weights.backbone["cls_token"].new_zeros(1, weights.architecture.embed_dim)
    notes = (*weights.notes, "mask token missing in the file: zeros")
    return replace(weights, backbone={**weights.backbone, MASK_TOKEN: token}, notes=notes)


def _check(weights: Weights) -> None:
    """Refuse tensors that are not exactly those of a backbone and its heads."""
    if weights.architecture.depth > len(weights.backbone):  # would take long to build
        many = f"{weights.architecture.depth} blocks, but {len(weights.backbone)} tensors"
        raise UserError(f"{weights.layout}: these weights say of themselves that they have {many}")
    mismatch = Mismatch.between(weights.architecture.shapes(), shapes_of(weights.backbone))
    if mismatch:
        raise UserError(f"{weights.layout}: not exactly a {weights.architecture.brief()}: {mismatch.words()}")
    for name, head in weights.heads.items():
        found = HeadArchitecture.of_tensors(head)
        mismatch = Mismatch.between(found.shapes(), shapes_of(head))
        if mismatch:
            raise UserError(
                f"{weights.layout}: {name} is not a projection head as it is known here: {mismatch.words()}"
            )
        if found.in_dim != (dim := weights.architecture.embed_dim):
            raise UserError(f"{weights.layout}: {name} takes {found.in_dim} channels, but its backbone gives {dim}")


def _refuse(part: str | None) -> None:
    if part is not None:
        raise UserError(f"no {part} here: these are weights of one network alone")


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / CONFIG)


def _json(path: Path) -> dict[str, Any]:
    try:
        words = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} can't be read ({error})") from error
    if not isinstance(words, dict):
        raise UserError(f"{path.name} can't be read (expected a JSON object)")
    return words
