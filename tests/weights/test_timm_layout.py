"""Weights of timm's VisionTransformer, both ways, against that class with random values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import libraries
import pytest
import torch
from libraries import assert_same_tokens, images, tokens
from safetensors.torch import save_file
from torch import Tensor, nn

from dinotrain.errors import UserError
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.read import read_weights
from dinotrain.weights.timm_layout import from_timm, to_timm

SIZES = {"img_size": 28, "patch_size": 7, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}
REGISTERS = {"reg_tokens": 4, "no_embed_class": True}
CASES: dict[str, dict[str, Any]] = {
    "dinov2": {"init_values": 1e-5},
    "dinov2_registers": {"init_values": 1e-5, **REGISTERS},
    "dino": {},
    "classifier": {"num_classes": 10, "mlp_ratio": 3.0},
    "grey": {"in_chans": 1},
    "no_position_for_cls": {"init_values": 1e-5, "no_embed_class": True},
    "positions_for_registers": {"reg_tokens": 3},
}
NAMES = {"vit_small_patch14_dinov2": "dinov2", "vit_small_patch14_reg4_dinov2": "dinov2_registers"}
"""Networks of timm's own list, made small."""


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    return libraries.timm()


def build(timm: ModuleType, **options: Any) -> nn.Module:
    """Their network with random values."""
    model = timm.models.VisionTransformer(**{**SIZES, **options})
    libraries.randomize(model)
    return model.eval()


def swiglu(timm: ModuleType) -> dict[str, Any]:
    """What makes a network of timm one like the DINOv2 ViT-g (128 wide for 48 channels)."""
    return {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 5.34, "init_values": 1e-5}


def read(model: nn.Module) -> tuple[dict[str, Tensor], Architecture]:
    backbone = from_timm(model.state_dict())
    return backbone, Architecture.of_tensors(backbone, num_heads=4)


@torch.no_grad()
def theirs(model: Any, x: Tensor) -> Tensor:
    return model.forward_features(x)


@pytest.mark.parametrize("case", [*CASES, "swiglu", "swiglu_registers"])
def test_their_network_gives_the_same_tokens_here(timm: ModuleType, case: str) -> None:
    gated = {"swiglu": swiglu(timm), "swiglu_registers": {**swiglu(timm), **REGISTERS}}
    model = build(timm, **(gated[case] if case in gated else CASES[case]))
    backbone, architecture = read(model)
    assert architecture.ffn == ("swiglu" if case in gated else "mlp")
    x = images(architecture.channels)
    assert_same_tokens(tokens(libraries.network(backbone, architecture), x), theirs(model, x))


@pytest.mark.parametrize("registers", [False, True])
def test_other_resolutions_agree_where_positions_are_resized_alike(timm: ModuleType, registers: bool) -> None:
    # timm resizes by size with antialias, as the DINOv2 weights with registers were trained. Those without, and DINO's,
    # were trained with sizes as scale factors (+0.1), which is what their architecture says here: it is changed to
    # theirs for this comparison.
    model = build(timm, dynamic_img_size=True, init_values=1e-5, **(REGISTERS if registers else {}))
    backbone, architecture = read(model)
    assert architecture.position_resize == ("size" if registers else "scale")
    network = libraries.network(backbone, dataclasses.replace(architecture, position_resize="size"))
    for height, width in ((42, 35), (14, 21)):
        x = images(height=height, width=width)
        assert_same_tokens(tokens(network, x), theirs(model, x))


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_their_list_agree(timm: ModuleType, name: str) -> None:
    sizes = {"img_size": 28, "embed_dim": 64, "depth": 2, "num_heads": 1}
    model = timm.create_model(name, pretrained=False, num_classes=0, **sizes).eval()
    libraries.randomize(model)
    backbone = from_timm(model.state_dict())
    network = libraries.network(backbone, Architecture.of_tensors(backbone))
    assert_same_tokens(tokens(network, images()), theirs(model, images()))


@pytest.mark.parametrize("case", CASES)
def test_the_one_door_for_weights_takes_their_files(timm: ModuleType, case: str, tmp_path: Path) -> None:
    model = build(timm, **CASES[case])
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pth")
    for file in ("model.safetensors", "model.pth"):
        weights = read_weights(str(tmp_path / file), num_heads=4)
        network = libraries.network(weights.backbone, weights.architecture)
        x = images(weights.architecture.channels)
        assert_same_tokens(tokens(network, x), theirs(model, x))


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("layer_scale", [False, True])
def test_ours_loads_strictly_there(timm: ModuleType, registers: int, ffn: str, layer_scale: bool) -> None:
    architecture, network = mine(registers, ffn, layer_scale)
    options = {"init_values": 1e-5 if layer_scale else None, "reg_tokens": registers, "no_embed_class": registers > 0}
    model = timm.models.VisionTransformer(
        **{**SIZES, **(swiglu(timm) if ffn == "swiglu" else {}), **options},
    )
    model.load_state_dict(to_timm(network.state_dict(), architecture), strict=True)
    assert_same_tokens(tokens(network, images()), theirs(model.eval(), images()))


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_there_and_back_keeps_all_that_timm_has(registers: int, ffn: str) -> None:
    architecture, network = mine(registers, ffn, True)
    before = network.state_dict()
    after = from_timm(to_timm(before, architecture))
    assert set(before) - set(after) == {"mask_token"}  # timm has none
    changed = {"cls_token", "pos_embed"} if registers else set()
    for name in set(after) - changed:
        assert torch.equal(before[name], after[name]), name
    # with registers timm keeps the sum of the CLS token and its position
    cls = before["cls_token"] + before["pos_embed"][:, :1]
    assert torch.equal(after["cls_token"] + after["pos_embed"][:, :1], cls)
    assert torch.equal(after["pos_embed"][:, 1:], before["pos_embed"][:, 1:])
    assert Architecture.of_tensors(after, num_heads=4) == architecture
    # so the tokens are the same to the bit, and so is a second way there and back
    for mine_, again in zip(tokens(network, images()), tokens(libraries.network(after, architecture), images())):
        assert torch.equal(mine_, again)
    twice = from_timm(to_timm(after, architecture))
    assert all(torch.equal(twice[name], tensor) for name, tensor in after.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"qk_norm": True}, r"norms of queries and keys \(blocks\.0\.attn\.q_norm\.weight\)"),
        ({"scale_attn_norm": True}, "a norm within attention"),
        ({"scale_mlp_norm": True}, "a norm within the feed-forward layers"),
        ({"qkv_bias": False}, "attention without biases"),
        ({"pre_norm": True}, "a norm before the blocks"),
        ({"global_pool": "avg"}, "its final norm after pooling"),
        ({"global_pool": "map"}, "attention pooling"),
        ({"class_token": False, "global_pool": ""}, "no CLS token"),
        ({"pos_embed": "none"}, "no table of absolute positions"),
    ],
)
def test_what_we_have_not_is_refused_in_one_line(timm: ModuleType, options: dict[str, Any], words: str) -> None:
    model = build(timm, **options)
    with pytest.raises(UserError, match=f"^a timm model with {words}") as caught:
        from_timm(model.state_dict())
    assert "\n" not in str(caught.value)


def test_a_distilled_one_is_refused(timm: ModuleType) -> None:
    model = timm.models.deit.VisionTransformerDistilled(**SIZES)
    with pytest.raises(UserError, match="a distillation token"):
        from_timm(model.state_dict())


def test_unknown_names_are_passed_on_and_none_is_taken_twice() -> None:
    architecture, network = mine(2, "swiglu", True)
    state = to_timm(network.state_dict(), architecture)
    assert "rope.periods" in from_timm({**state, "rope.periods": torch.ones(1)})
    assert "head.weight" not in from_timm({**state, "head.weight": torch.ones(3, 48)})
    for name in ("register_tokens", "blocks.0.mlp.w12.weight"):
        with pytest.raises(UserError, match=f"two tensors in the file stand for {name}"):
            from_timm({**state, name: torch.ones(1)})


def test_a_table_that_makes_no_square_is_left_for_the_architecture_to_refuse() -> None:
    architecture, network = mine(2, "mlp", True)
    state = {**to_timm(network.state_dict(), architecture), "pos_embed": torch.zeros(1, 14, 48)}
    with pytest.raises(UserError, match="pos_embed has 14 positions"):
        Architecture.of_tensors(from_timm(state), num_heads=4)


def mine(registers: int, ffn: str, layer_scale: bool) -> tuple[Architecture, nn.Module]:
    architecture = libraries.architecture(num_registers=registers, ffn=ffn, layer_scale=layer_scale)
    return architecture, libraries.random_network(architecture)
