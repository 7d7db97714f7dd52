"""What a network is, read off its tensors."""

from __future__ import annotations

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


@pytest.mark.parametrize("dim", [384, 1024, 1536])
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


def test_tensors_of_something_else() -> None:
    with pytest.raises(UserError, match=r"no tensor patch_embed\.proj\.weight"):
        Architecture.of_tensors({"conv1.weight": torch.zeros(4, 3, 7, 7)})
    with pytest.raises(UserError, match="block 1 of 3 is missing"):
        Architecture.of_tensors({k: v for k, v in tensors(depth=3).items() if "blocks.1." not in k}, num_heads=2)
    with pytest.raises(UserError, match=r"no blocks\.\* tensors"):
        Architecture.of_tensors({k: v for k, v in tensors().items() if "blocks." not in k}, num_heads=2)
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
