"""The key lists of released weights, written down from the architectures alone, held to both directions.

Tensors are on the meta device, so that networks have their real sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dinotrain.weights.architecture import Architecture
from dinotrain.weights.hugging_face import from_hugging_face, to_hugging_face
from dinotrain.weights.official import from_official, to_official
from dinotrain.weights.timm_layout import from_timm, to_timm

Shapes = dict[str, tuple[int, ...]]


def vit(dim: int, depth: int, **changes: Any) -> Architecture:
    """A released DINOv2 network: patches of 14, 518 px; `changes` make it one of DINO."""
    fields: dict[str, Any] = {
        "image_size": 518,
        "patch_size": 14,
        "channels": 3,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": dim // 64,
        "ffn": "mlp",
        "ffn_ratio": 4.0,
        "num_registers": 0,
        "layer_scale": True,
        "position_resize": "size" if "num_registers" in changes else "scale",
    }
    return Architecture(**{**fields, **changes})


SMALL, BASE, GIANT = vit(384, 12), vit(768, 12), vit(1536, 40, ffn="swiglu")
SMALL_REGISTERS, GIANT_REGISTERS = vit(384, 12, num_registers=4), vit(1536, 40, ffn="swiglu", num_registers=4)
DINO = vit(384, 12, image_size=224, patch_size=16, layer_scale=False)


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def convolution(name: str, a: Architecture) -> Shapes:
    return {f"{name}.weight": (a.embed_dim, 3, a.patch_size, a.patch_size), f"{name}.bias": (a.embed_dim,)}


def official(a: Architecture) -> Shapes:
    """dinov2_vits14_reg4_pretrain.pth and the like; DINO's have neither LayerScale nor a mask token."""
    dim, positions = a.embed_dim, 1 + (a.image_size // a.patch_size) ** 2
    shapes: Shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, positions, dim)}
    shapes |= {"register_tokens": (1, 4, dim)} if a.num_registers else {}
    shapes |= {"mask_token": (1, dim)} if a.layer_scale else {}
    shapes |= convolution("patch_embed.proj", a) | norm("norm", dim)
    for block in (f"blocks.{number}." for number in range(a.depth)):
        shapes |= norm(block + "norm1", dim) | norm(block + "norm2", dim)
        shapes |= linear(block + "attn.qkv", 3 * dim, dim) | linear(block + "attn.proj", dim, dim)
        shapes |= {block + "ls1.gamma": (dim,), block + "ls2.gamma": (dim,)} if a.layer_scale else {}
        if a.ffn == "swiglu":
            shapes |= linear(block + "mlp.w12", 8192, dim) | linear(block + "mlp.w3", dim, 4096)
        else:
            shapes |= linear(block + "mlp.fc1", 4 * dim, dim) | linear(block + "mlp.fc2", dim, 4 * dim)
    return shapes


def hub_embeddings(a: Architecture) -> Shapes:
    dim, positions = a.embed_dim, 1 + (a.image_size // a.patch_size) ** 2
    shapes: Shapes = {"embeddings.cls_token": (1, 1, dim), "embeddings.position_embeddings": (1, positions, dim)}
    shapes |= {"embeddings.register_tokens": (1, 4, dim)} if a.num_registers else {}
    shapes |= {"embeddings.mask_token": (1, dim)} if a.layer_scale else {}
    return shapes | convolution("embeddings.patch_embeddings.projection", a) | norm("layernorm", dim)


def attention(block: str, dim: int) -> Shapes:
    names = ("attention.query", "attention.key", "attention.value", "output.dense")
    return {key: shape for name in names for key, shape in linear(f"{block}attention.{name}", dim, dim).items()}


def hub_dinov2(a: Architecture) -> Shapes:
    """facebook/dinov2-base, facebook/dinov2-giant, facebook/dinov2-with-registers-small, ..."""
    dim = a.embed_dim
    shapes = hub_embeddings(a)
    for block in (f"encoder.layer.{number}." for number in range(a.depth)):
        shapes |= norm(block + "norm1", dim) | norm(block + "norm2", dim) | attention(block, dim)
        shapes |= {block + "layer_scale1.lambda1": (dim,), block + "layer_scale2.lambda1": (dim,)}
        if a.ffn == "swiglu":
            shapes |= linear(block + "mlp.weights_in", 8192, dim) | linear(block + "mlp.weights_out", dim, 4096)
        else:
            shapes |= linear(block + "mlp.fc1", 4 * dim, dim) | linear(block + "mlp.fc2", dim, 4 * dim)
    return shapes


def hub_vit(a: Architecture) -> Shapes:
    """facebook/dino-vits16 and the like, without the pooler."""
    dim = a.embed_dim
    shapes = hub_embeddings(a)
    for block in (f"encoder.layer.{number}." for number in range(a.depth)):
        shapes |= norm(block + "layernorm_before", dim) | norm(block + "layernorm_after", dim) | attention(block, dim)
        shapes |= linear(block + "intermediate.dense", 4 * dim, dim) | linear(block + "output.dense", dim, 4 * dim)
    return shapes


def timm_list(a: Architecture) -> Shapes:
    """vit_small_patch14_dinov2.lvd142m, vit_small_patch14_reg4_dinov2.lvd142m, vit_small_patch16_224.dino, ..."""
    shapes = official(a)
    shapes.pop("mask_token", None)
    if a.num_registers:
        shapes["reg_token"] = shapes.pop("register_tokens")
        shapes["pos_embed"] = (1, 37 * 37, a.embed_dim)
    names = {"w12": "fc1", "w3": "fc2"}
    return {".".join(names.get(part, part) for part in name.split(".")): shape for name, shape in shapes.items()}


def hub_config(a: Architecture) -> dict[str, Any]:
    """What the config.json of such a model on the hub says, but for keys of training and of names."""
    config: dict[str, Any] = {
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": a.embed_dim,
        "image_size": a.image_size,
        "initializer_range": 0.02,
        "num_attention_heads": a.num_heads,
        "num_channels": 3,
        "num_hidden_layers": a.depth,
        "patch_size": a.patch_size,
        "qkv_bias": True,
        "torch_dtype": "float32",
        "transformers_version": "4.31.0",
    }
    if not a.layer_scale:
        return config | {"model_type": "vit", "intermediate_size": 4 * a.embed_dim, "layer_norm_eps": 1e-12}
    swiglu = {"mlp_ratio": 4, "use_swiglu_ffn": a.ffn == "swiglu", "layer_norm_eps": 1e-6, "layerscale_value": 1.0}
    registers = {"model_type": "dinov2_with_registers", "num_register_tokens": 4}
    return config | swiglu | (registers if a.num_registers else {"model_type": "dinov2"})


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def cases(*architectures: Architecture) -> list[Any]:
    names = (f"{a.embed_dim}x{a.depth}-{a.ffn}-{a.num_registers}-p{a.patch_size}" for a in architectures)
    return [pytest.param(a, id=name) for a, name in zip(architectures, names, strict=True)]


DINOV2 = (SMALL, BASE, GIANT, SMALL_REGISTERS, GIANT_REGISTERS)


@pytest.mark.parametrize("a", cases(*DINOV2, DINO))
def test_official_names_are_ours(a: Architecture) -> None:
    listed = official(a)
    missing = {} if a.layer_scale else {"mask_token": (1, 384)}  # which DINO never had
    assert a.shapes() == listed | missing
    assert Architecture.of_tensors(tensors(listed)) == a
    for chunks in (0, 4):
        written = to_official(tensors(listed), chunks)
        assert shapes_of(from_official(written).backbone) == listed


@pytest.mark.parametrize("a", cases(*DINOV2))
def test_dinov2_on_the_hub(a: Architecture) -> None:
    backbone, read = from_hugging_face(tensors(hub_dinov2(a)), hub_config(a))
    assert read == a
    assert shapes_of(backbone) == official(a)
    state, config = to_hugging_face(tensors(official(a)), a)
    assert shapes_of(state) == hub_dinov2(a)
    assert {key: value for key, value in hub_config(a).items() if key in config} == {
        key: value for key, value in config.items() if key != "architectures"
    }


def test_dino_on_the_hub() -> None:
    pooler = linear("pooler.dense", 384, 384)
    backbone, read = from_hugging_face(tensors(hub_vit(DINO) | pooler), hub_config(DINO))
    assert read == dataclasses.replace(DINO, norm_eps=1e-12)
    assert shapes_of(backbone) == official(DINO)
    state, config = to_hugging_face({**tensors(official(DINO)), "mask_token": torch.zeros(1, 384)}, DINO)
    assert shapes_of(state) == hub_vit(DINO)
    assert config["model_type"] == "vit"
    assert config["intermediate_size"] == 1536


@pytest.mark.parametrize("a", cases(*DINOV2, DINO))
def test_timm(a: Architecture) -> None:
    listed = official(a)
    listed.pop("mask_token", None)
    backbone = from_timm(tensors(timm_list(a)))
    assert shapes_of(backbone) == listed
    assert Architecture.of_tensors(backbone) == a
    assert shapes_of(to_timm(tensors(official(a)), a)) == timm_list(a)
