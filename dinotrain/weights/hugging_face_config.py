"""The JSON files beside the weights of a Hugging Face folder: config.json, both ways, and preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from dinotrain.errors import UserError
from dinotrain.models.position import Resize
from dinotrain.weights.architecture import MOST, Architecture, mlp_ratio
from dinotrain.weights.weights import IMAGENET, Normalization

MODELS = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "vit": "ViTModel"}
"""model_type -> class of transformers."""

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "image_size": 224,
    "num_channels": 3,
    "qkv_bias": True,
}
"""What a key has that config.json leaves out, as in transformers; in OF_MODEL those that differ between models."""

OF_MODEL: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14, "layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False},
    "dinov2_with_registers": {
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
        "mlp_ratio": 4,
        "use_swiglu_ffn": False,
        "num_register_tokens": 4,
    },
    "vit": {"patch_size": 16, "layer_norm_eps": 1e-12, "intermediate_size": 3072},
}

CROP_FRACTION = 0.875
"""Of the short side, as in the evaluation: 224 of 256."""

RESIZE: dict[str, Resize] = {"dinov2": "scale", "dinov2_with_registers": "size", "vit": "scale"}
"""How positions were resized when the released weights were trained."""

BICUBIC = 3
"""As Pillow numbers it."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """What a config.json of transformers describes.

    Positions are resized as when these weights were trained; transformers itself resizes without registers by size and
    without antialias, which is slightly different off the native resolution. `position_resize` is a key of our own.

    Raises:
        UserError: for another model, or one that `VisionTransformer` cannot express.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODELS:
        raise UserError(f"config.json: model_type: got {kind!r}, expected one of {', '.join(MODELS)}")
    values = {**DEFAULTS, **OF_MODEL[kind], **config}
    if not values["qkv_bias"]:
        raise UserError("config.json: qkv_bias: got false, expected true: attention here has biases")
    dim, patch = _whole(values, "hidden_size"), _side(values, "patch_size")
    ffn, ratio = _feedforward(values, kind, dim)
    return Architecture(
        # a table has whole patches only
        image_size=_side(values, "image_size") // patch * patch,
        patch_size=patch,
        channels=_whole(values, "num_channels"),
        embed_dim=dim,
        depth=_whole(values, "num_hidden_layers"),
        num_heads=_whole(values, "num_attention_heads"),
        ffn=ffn,
        ffn_ratio=ratio,
        num_registers=_whole(values, "num_register_tokens", least=0) if kind == "dinov2_with_registers" else 0,
        layer_scale=kind != "vit",
        position_resize=_resize(values, kind),
        norm_eps=_number(values, "layer_norm_eps"),
    )


def config_of(architecture: Architecture, dtype: torch.dtype) -> dict[str, Any]:
    """The contents of config.json.

    Raises:
        UserError: for a ratio of the feed-forward layers that is not whole, which the DINOv2 classes do not take.
    """
    a = architecture
    swiglu = a.ffn == "swiglu"
    kind = "dinov2_with_registers" if a.num_registers else "dinov2" if a.layer_scale or swiglu else "vit"
    config = {
        "architectures": [MODELS[kind]],
        "model_type": kind,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "hidden_size": a.embed_dim,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.num_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": a.norm_eps,
        "image_size": a.image_size,
        "patch_size": a.patch_size,
        "num_channels": a.channels,
        "qkv_bias": True,
    }
    if a.position_resize != RESIZE[kind]:
        config["position_resize"] = a.position_resize
    if kind == "vit":
        return config | {"intermediate_size": int(a.embed_dim * a.ffn_ratio)}
    if a.ffn_ratio != int(a.ffn_ratio):
        raise UserError(f"ffn_ratio: got {a.ffn_ratio}, expected a whole number: {MODELS[kind]} takes no other")
    registers = {"num_register_tokens": a.num_registers} if a.num_registers else {}
    return config | registers | {"mlp_ratio": int(a.ffn_ratio), "use_swiglu_ffn": swiglu, "layerscale_value": 1.0}


def preprocessor_of(architecture: Architecture, normalization: Normalization | None) -> dict[str, Any]:
    """The contents of preprocessor_config.json for RGB images; ImageNet's mean and deviation where none are given."""
    size = architecture.image_size
    mean, std = normalization or IMAGENET
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(size / CROP_FRACTION)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _feedforward(values: Mapping[str, Any], kind: str, dim: int) -> tuple[Literal["mlp", "swiglu"], float]:
    if kind != "vit" and values["use_swiglu_ffn"]:
        return "swiglu", _number(values, "mlp_ratio")
    if values["hidden_act"] != "gelu":
        raise UserError(f"config.json: hidden_act: got {values['hidden_act']!r}, expected 'gelu'")
    if kind != "vit":
        return "mlp", _number(values, "mlp_ratio")
    return "mlp", mlp_ratio(_whole(values, "intermediate_size"), dim)


def _resize(values: Mapping[str, Any], kind: str) -> Resize:
    got = values.get("position_resize", RESIZE[kind])
    if got not in ("scale", "size"):
        raise UserError(f"config.json: position_resize: got {got!r}, expected scale or size")
    return got


def _number(values: Mapping[str, Any], key: str) -> float:
    got = values[key]
    if isinstance(got, bool) or not isinstance(got, int | float) or not 0 < got <= MOST:
        raise UserError(f"config.json: {key}: got {repr(got)[:40]}, expected a number above 0")
    return float(got)


def _whole(values: Mapping[str, Any], key: str, least: int = 1) -> int:
    got = values[key]
    if isinstance(got, bool) or not isinstance(got, int) or not least <= got <= MOST:
        raise UserError(f"config.json: {key}: got {repr(got)[:40]}, expected a whole number of at least {least}")
    return got


def _side(values: Mapping[str, Any], key: str) -> int:
    """Of a square given by one number or by two equal ones."""
    got = values[key]
    if isinstance(got, list | tuple) and len(got) == 2 and got[0] == got[1]:
        return _whole({key: got[0]}, key)
    if isinstance(got, list | tuple):
        raise UserError(f"config.json: {key}: got {got!r}, expected a square")
    return _whole(values, key)
