"""What a network is, read off its tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import Architecture, HeadArchitecture


def tensors(**changes: Any) -> dict[str, Tensor]:
    return dict(tiny.backbone(**changes).state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_registers": 4},
        {"layer_scale": None, "patch_size": 8, "image_size": 24},
        {"ffn": "swiglu"},
        {"ffn": "swiglu", "ffn_ratio": 3.0, "embed_dim": 24},
        {"ffn_ratio": 3.1, "depth": 3},
        {"ffn_ratio": 1 / 3, "embed_dim": 22},
        {"channels": 1, "num_heads": 4},
    ],
)
def test_the_network_built_from_it_has_the_same_parameters(changes: dict[str, Any]) -> None:
    model = tiny.backbone(**changes)
    found = Architecture.of_tensors(dict(model.state_dict()), num_heads=model.num_heads)
    assert found.shapes() == {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name in ("image_size", "patch_size", "channels", "embed_dim", "depth", "num_heads", "num_registers"):
        assert getattr(found, name) == getattr(model, name)
    assert found.position_resize == model.position_resize
    VisionTransformer(**found.arguments()).load_state_dict(model.state_dict())


@pytest.mark.parametrize("dim", [64, 384, 1024, 1536])
def test_the_published_sizes_need_nothing_said(dim: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(embed_dim=dim, depth=1, num_heads=dim // 64, ffn="swiglu", image_size=28)
    found = Architecture.of_tensors(dict(model.state_dict()))
    assert (found.num_heads, found.ffn, found.ffn_ratio) == (dim // 64, "swiglu", 4.0)


def test_heads_that_can_not_be_told() -> None:
    with pytest.raises(UserError, match="16 channels: give the key num_heads"):
        Architecture.of_tensors(tensors())
    with pytest.raises(UserError, match="num_heads: got 3, expected a divisor of the 16 channels"):
        Architecture.of_tensors(tensors(), num_heads=3)


@pytest.mark.parametrize("dim", [1088, 1152, 1280, 1408, 1664])
def test_widths_at_which_networks_differ_in_their_heads(dim: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(embed_dim=dim, depth=1, num_heads=16, image_size=28)
    with pytest.raises(UserError, match=f"{dim} channels: give the key num_heads"):
        Architecture.of_tensors(dict(model.state_dict()))
    assert Architecture.of_tensors(dict(model.state_dict()), num_heads=16).num_heads == 16


def test_in_words() -> None:
    found = Architecture.of_tensors(tensors(num_registers=3, ffn="swiglu"), num_heads=2)
    assert found.brief() == "ViT of 2 blocks x 16 channels, 2 heads, patch 4, 3 registers, swiglu"
    assert "16 channels, 1 head, patch 4" in Architecture.of_tensors(tensors(), num_heads=1).brief()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": "2"}, "depth: got 2, expected a whole number from 1 to"),
        ({"depth": True}, "depth: got True, expected a whole number"),
        ({"embed_dim": 10**400}, "embed_dim: got 1000"),
        ({"num_registers": -1}, "num_registers: got -1, expected a whole number from 0"),
        ({"ffn_ratio": float("nan")}, "ffn_ratio: got nan, expected a number above 0"),
        ({"norm_eps": "1e-6"}, "norm_eps: got 1e-6, expected a number above 0"),
        ({"ffn": ["mlp"]}, r"ffn: got \['mlp'\], expected mlp or swiglu"),
        ({"layer_scale": 1}, "layer_scale: got 1, expected true or false"),
        ({"position_resize": "bilinear"}, "position_resize: got bilinear, expected scale or size"),
    ],
)
def test_what_no_network_has(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(Architecture.of_tensors(tensors(), num_heads=2), **changes)


def test_a_network_larger_than_any() -> None:
    known = Architecture.of_tensors(tensors(), num_heads=2)
    with pytest.raises(UserError, match="no network can be as large as a ViT of 2 blocks x 2147483646 channels"):
        dataclasses.replace(known, embed_dim=2**31 - 2).shapes()


def test_tensors_of_something_else() -> None:
    with pytest.raises(UserError, match=r"no tensor patch_embed\.proj\.weight"):
        Architecture.of_tensors({"conv1.weight": torch.zeros(4, 3, 7, 7)})
    with pytest.raises(UserError, match="block 1 of 3 is missing"):
        Architecture.of_tensors({k: v for k, v in tensors(depth=3).items() if "blocks.1." not in k}, num_heads=2)
    with pytest.raises(UserError, match=r"no blocks\.\* tensors"):
        Architecture.of_tensors({k: v for k, v in tensors().items() if "blocks." not in k}, num_heads=2)
    last = {"blocks.99999999999.norm1.bias": torch.zeros(16)}
    with pytest.raises(UserError, match="block 2 of 100000000000 is missing"):
        Architecture.of_tensors(tensors() | last, num_heads=2)
    for name in ("blocks.\N{SUPERSCRIPT TWO}.norm1.bias", f"blocks.{'9' * 5000}.norm1.bias"):
        assert Architecture.of_tensors(tensors() | {name: torch.zeros(16)}, num_heads=2).depth == 2
    for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"):
        empty = tensors()[name][:0]
        with pytest.raises(UserError, match=rf"{name} has shape \[0, .*it is empty"):
            Architecture.of_tensors(tensors() | {name: empty}, num_heads=2)
    with pytest.raises(UserError, match="16 positions, expected one for CLS and a square grid"):
        Architecture.of_tensors(tensors() | {"pos_embed": torch.zeros(1, 16, 16)}, num_heads=2)
    with pytest.raises(UserError, match="patches of 4x2 px: expected square ones"):
        Architecture.of_tensors(tensors() | {"patch_embed.proj.weight": torch.zeros(16, 3, 4, 2)}, num_heads=2)
    with pytest.raises(UserError, match=r"has shape \[16, 48\], expected 4 dimensions"):
        Architecture.of_tensors(tensors() | {"patch_embed.proj.weight": torch.zeros(16, 48)}, num_heads=2)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_heads(layers: int) -> None:
    sizes = {"in_dim": 16, "hidden_dim": 12, "bottleneck_dim": 8, "num_prototypes": 24, "num_layers": layers}
    with torch.device("meta"):
        head = Head(**sizes)
    found = HeadArchitecture.of_tensors(dict(head.state_dict()))
    assert found.arguments() == sizes | ({"hidden_dim": 8} if layers == 1 else {})
    assert found.shapes() == {name: tuple(p.shape) for name, p in head.named_parameters()}
