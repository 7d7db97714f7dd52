"""A state dict that a model of timm loads strictly, and how timm runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.exporting.library import library
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.exporting.torch_program import quietly
from dinotrain.models.feedforward import SwiGLU
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.safetensors_file import write_safetensors
from dinotrain.weights.timm_layout import to_timm

SIZES: dict[str, tuple[int, int, int]] = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}
"""Width, blocks and heads of theirs with DINOv2 in their names; giant has SwiGLU."""

USUAL_EPS = 1e-6


def write(subject: Subject, path: Path) -> tuple[str, ...]:
    """Write the state dict; returns the model that takes it, and how.

    Raises:
        UserError: for a classifier: their heads take CLS or the mean patch, not both.
    """
    if subject.classifier is not None:
        raise UserError(
            "format=timm: its models have no head on CLS and mean patch; format=hub, onnx, torch or safetensors keeps "
            "it (hf, too, where it takes one block), and head=false exports the backbone alone"
        )
    architecture = subject.architecture
    write_safetensors(path, to_timm(subject.weights.backbone, architecture), {"format": "pt"})
    name, arguments = model_of(architecture)
    words = [f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())]
    imports = ["import timm", "from safetensors.torch import load_file"]
    if architecture.norm_eps != USUAL_EPS:
        imports = ["import functools", "import timm", "import torch", imports[1]]
        words.append(f"norm_layer=functools.partial(torch.nn.LayerNorm, eps={architecture.norm_eps!r})")
    return (
        *imports,
        f"model = timm.create_model({', '.join(words)})",
        f'model.load_state_dict(load_file("{path.name}"), strict=True)',
    )


def load(subject: Subject, path: Path) -> Callable[[Tensor], Outputs]:
    """Their model with the state dict in float32.

    Raises:
        UserError: if timm is not installed, or has no such model.
    """
    timm = library("timm", extra="timm", what="format=timm")
    name, arguments = model_of(subject.architecture)
    eps = subject.architecture.norm_eps
    if eps != USUAL_EPS:
        arguments["norm_layer"] = functools.partial(torch.nn.LayerNorm, eps=eps)
    try:
        with quietly():
            model: Any = timm.create_model(name, **arguments)
        model.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"format=timm: timm {timm.__version__} does not take it ({str(error).split('.')[0]})"
        ) from error
    model.eval()
    first = 1 + subject.architecture.num_registers

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        x = model.forward_features(images)
        return {"cls": x[:, 0], "registers": x[:, 1:first], "patches": x[:, first:]}

    return run


def differs(subject: Subject) -> str | None:
    """How timm differs from the network at other than the native resolution; None if it does not."""
    if subject.architecture.position_resize == "size":
        return None
    return "timm resizes positions by size with antialias, this network by scale factor with an offset of 0.1"


def model_of(architecture: Architecture) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which `timm.create_model` builds the network; positions follow the size of images."""
    a = architecture
    size = _size(a)
    registers = "reg4_" if a.num_registers else ""
    bare = not a.layer_scale and not registers and a.ffn == "mlp"
    name = "vit_small_patch16_224" if bare else f"vit_{size}_patch14_{registers}dinov2"
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0, "img_size": a.image_size}
    arguments |= {"dynamic_img_size": True}
    if a.patch_size != (16 if bare else 14):
        arguments["patch_size"] = a.patch_size
    if a.channels != 3:
        arguments["in_chans"] = a.channels
    own = dict(zip(("embed_dim", "depth", "num_heads"), SIZES["small" if bare else size], strict=True))
    arguments |= {key: getattr(a, key) for key, usual in own.items() if getattr(a, key) != usual}
    if (ratio := _ratio(a)) != (2.66667 * 2 if size == "giant" else 4.0):
        arguments["mlp_ratio"] = ratio
    if registers and a.num_registers != 4:
        arguments["reg_tokens"] = a.num_registers
    if not bare and not a.layer_scale:
        arguments["init_values"] = 0.0  # None would leave theirs as it is
    return name, arguments


def _size(architecture: Architecture) -> str:
    """The name of theirs to begin with, in which only what differs has to be said."""
    if architecture.ffn == "swiglu":
        return "giant"
    given = (architecture.embed_dim, architecture.depth, architecture.num_heads)
    return next((name for name, sizes in SIZES.items() if sizes == given), "small")


def _ratio(architecture: Architecture) -> float:
    """Of the first feed-forward layer's width to the network's; theirs with SwiGLU counts both halves."""
    a = architecture
    if a.ffn == "mlp":
        return float(a.ffn_ratio)
    with torch.device("meta"):
        width = SwiGLU(a.embed_dim, int(a.embed_dim * a.ffn_ratio)).w12.out_features
    if int(a.embed_dim * 2.66667 * 2) == width:
        return 2.66667 * 2
    return width / a.embed_dim if int(width / a.embed_dim * a.embed_dim) == width else (width + 0.5) / a.embed_dim
